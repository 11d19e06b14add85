"""Which plan suits which tables? Plans embedding sharding for hypothetical hardware, and runs it on real ranks.

    python -m benchmarks.sharding what-if --preset 5TB --hosts 16 --gpus 8 --gpu h100 --out DIR
    python -m benchmarks.sharding real --shapes 1x1 1x2 2x2 --out DIR

real trains under every sharding type on ranks of this machine. what-if writes DIR/{whatif.json, tables.png, ranks.png,
plan.json}; `--sharding.plan DIR/plan.json` trains with that plan on the same number of ranks. See
docs/how-to/sharding.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from easq_rec.config.schema import FeatureSchema


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    _add_what_if(modes.add_parser("what-if", help="plan for hypothetical hardware", formatter_class=Defaults))
    ranks = modes.add_parser(
        "real", help="verify and time all cases on ranks of this machine", formatter_class=Defaults
    )
    ranks.add_argument(
        "--shapes", nargs="+", default=["1x1", "1x2", "2x2"], help="hosts x ranks; hosts are this machine"
    )
    ranks.add_argument("--rounds", type=int, default=3, help="in which all cases take turns")
    ranks.add_argument("--steps", type=int, default=8, help="per round and case")
    ranks.add_argument("--proof-steps", type=int, default=3, help="steps compared with the unsharded model")
    ranks.add_argument("--cases", nargs="+", metavar="CASE", help="names of some cases; without it, all")
    ranks.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: not yet run")
    ranks.add_argument("--out", type=Path, help="directory for JSON and pictures")
    args = parser.parse_args(argv)
    try:
        if args.mode == "real":
            return run_real(args)
        return what_if(args)
    except ValueError as error:
        print(f"benchmarks.sharding: {error}", file=sys.stderr)
        return 2


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Every option's default in its help."""


def _add_what_if(parser: argparse.ArgumentParser) -> None:
    tables = parser.add_mutually_exclusive_group(required=True)
    tables.add_argument("--preset", help="a made-up table mix of this size: 1TB, 5TB, 20TB, 100TB, or any number of TB")
    tables.add_argument("--schema", type=Path, help="a schema file (TOML), as `easq-rec train --schema`")
    tables.add_argument("--recipe", help="a recipe of easq-rec, such as quickstart")
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--gpus", type=int, default=8, help="per host")
    parser.add_argument("--gpu", choices=("a100", "h100", "h200"), default="h100", help="kind of host")
    parser.add_argument("--requests", type=int, default=512, help="requests per step and rank")
    parser.add_argument("--candidates", type=int, default=12, help="per request")
    parser.add_argument("--history", type=int, default=50, help="entries per request")
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="sharding types offered; without it, all")
    parser.add_argument("--min-partition", type=int, help="narrowest column split; without it, TorchRec's 128")
    parser.add_argument("--hbm-reserved", type=float, default=0.15, help="share of HBM kept for everything else")
    parser.add_argument("--ddr-share", type=float, default=0.75, help="share of host memory that tables may take")
    parser.add_argument("--timeout", type=int, default=60, help="seconds after which a search takes its best plan")
    parser.add_argument("--out", type=Path, help="directory for JSON, pictures and plan file")


def what_if(args: argparse.Namespace) -> int:
    # Imported here, so that --help does not wait for torch.
    from benchmarks.sharding import whatif
    from benchmarks.sharding.hosts import HOSTS
    from benchmarks.sharding.planning import TYPES, Cluster, Offer, Workload
    from easq_rec.training.process import quiet

    quiet()
    unknown = [kind for kind in args.types or () if kind not in TYPES]
    if unknown:
        raise ValueError(f"--types {unknown[0]} is not allowed: of {', '.join(TYPES)}")
    for name in ("hosts", "gpus", "requests", "candidates", "timeout"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} is not allowed: at least 1")
    cluster = Cluster(
        host=HOSTS[args.gpu],
        hosts=args.hosts,
        gpus=args.gpus,
        hbm_reserved=args.hbm_reserved,
        ddr_share=args.ddr_share,
    )
    work = Workload(requests=args.requests, candidates=args.candidates, history=args.history)
    offer = Offer(types=tuple(args.types or TYPES), min_partition=args.min_partition)
    tables = schema(args)
    report, plan = whatif.what_if(tables, cluster, work, offer, timeout=args.timeout)
    report = {"tables_from": args.preset or str(args.schema or args.recipe), **report}
    print("\n".join(whatif.lines(report)))
    if args.out is not None:
        whatif.write(report, plan, tables, args.out)
    return 0 if plan is not None else 1


def run_real(args: argparse.Namespace) -> int:
    from benchmarks.sharding.cases import CASES
    from benchmarks.sharding.real import real

    names = [case.name for case in CASES]
    unknown = [name for name in args.cases or () if name not in names]
    if unknown:
        raise ValueError(f"--cases {unknown[0]!r} is unknown: one of {', '.join(map(repr, names))}")
    report = real(
        args.shapes,
        rounds=args.rounds,
        steps=args.steps,
        proof_steps=args.proof_steps,
        out=args.out,
        cases=args.cases,
        device=args.device,
    )
    flawed = {case.name for case in CASES if case.flawed}
    proofs = [(name, proof) for run in report["runs"] for name, proof in run["proofs"].items() if name not in flawed]
    return 1 if any(proof.get("equal") is False for _, proof in proofs) else 0


def schema(args: argparse.Namespace) -> FeatureSchema:
    """The requested tables. Raises ValueError for an unknown name."""
    from benchmarks.sharding import presets
    from easq_rec.config.recipes import RECIPES, recipe
    from easq_rec.config.schema_file import load_schema

    if args.schema is not None:
        return load_schema(args.schema)
    if args.recipe is not None:
        if args.recipe not in RECIPES:
            raise ValueError(f"--recipe {args.recipe} is unknown: one of {', '.join(RECIPES)}")
        return recipe(args.recipe).schema
    if args.preset in presets.PRESETS:
        return presets.schema_of(presets.PRESETS[args.preset])
    try:
        return presets.schema_of(int(float(args.preset.removesuffix("TB")) * presets.TB))
    except ValueError as error:
        known = ", ".join(presets.PRESETS)
        raise ValueError(f"--preset {args.preset} is not allowed: {known}, or a number of TB ({error})") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
