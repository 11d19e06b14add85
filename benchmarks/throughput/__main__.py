"""How many impressions per second does training make, and where does the time go?

    python -m benchmarks.throughput run --ranks 1 2 4 --out FILE.json
    python -m benchmarks.throughput run --ranks 1 2 --pipelines base sparse_dist -- quickstart --data DIR
    python -m benchmarks.throughput show FILE.json
    python -m benchmarks.throughput compare A.json B.json

run trains with the trainer itself on Parquet files, under torchrun, one thread per rank: the reference workload, or
the arguments after `--`, which are those of `easq-rec train`. Shapes (numbers of ranks) alternate over the rounds; in
each launch pipelines alternate over the windows. It measures the machine first, prints rates, phases and the losses
with more ranks, and writes everything as JSON. compare shows whether B is faster than A, with an interval.
docs/explanation/performance.md explains the numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

PIPELINE_NAMES = ("base", "sparse_dist", "sparse_dist_lite", "fused_sparse_dist", "prefetch")
STREAMED = ("fused_sparse_dist", "prefetch")
"""Pipelines that need CUDA streams."""
SCALINGS = ("per_rank", "global", "independent")


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Every option's default in its help."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("run", help="measure", formatter_class=Defaults)
    run.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="one rank is always among them")
    run.add_argument(
        "--scaling",
        nargs="+",
        choices=SCALINGS,
        default=list(SCALINGS),
        help="per_rank: each rank has --requests; global: ranks share --requests; independent: as per_rank, in runs "
        "that do not communicate",
    )
    run.add_argument(
        "--pipelines", nargs="+", choices=PIPELINE_NAMES, default=["sparse_dist"], help="the first is measured by phase"
    )
    run.add_argument("--requests", type=int, help="per step and rank; without it, the config's batch size")
    run.add_argument("--rounds", type=int, default=3, help="launches of each shape, in turn")
    run.add_argument("--warm-up", type=int, default=20, help="steps")
    run.add_argument("--windows", type=int, default=8, help="per launch and pipeline")
    run.add_argument("--steps", type=int, default=20, help="of a window")
    run.add_argument("--ceiling-seconds", type=float, default=1.0, help="for each of the machine's ceilings")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: not yet run")
    run.add_argument(
        "--trace", type=Path, help="file for a Chrome trace of some steps, of the last shape's first launch"
    )
    run.add_argument("--out", type=Path, help="file for the JSON; a figure of the phases is written next to it")
    run.add_argument("train", nargs="*", metavar="TRAIN", help="behind --: arguments of easq-rec train")
    both = modes.add_parser("compare", help="two results")
    both.add_argument("a", type=Path)
    both.add_argument("b", type=Path)
    shown = modes.add_parser("show", help="the output of run, from its file")
    shown.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.mode == "run":
            return measure(args)
        # Imported here, so that --help is fast.
        from benchmarks.throughput import report
        from benchmarks.throughput.compare import compare, load

        print("\n".join(report.lines(load(args.file)) if args.mode == "show" else compare(args.a, args.b)))
    except ValueError as error:
        print(f"benchmarks.throughput: {error}", file=sys.stderr)
        return 2
    return 0


def measure(args: argparse.Namespace) -> int:
    """Mode run."""
    for name in ("rounds", "warm_up", "windows", "steps", *(("requests",) if args.requests is not None else ())):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} is not allowed: at least 1")
    if min(args.ranks) < 1:
        raise ValueError(f"--ranks {min(args.ranks)} is not allowed: at least 1")
    streamed = [name for name in args.pipelines if name in STREAMED]
    if streamed and args.device != "cuda":
        raise ValueError(f"--pipelines {streamed[0]} needs --device cuda: on CPU TorchRec has no streams for it")
    from benchmarks.reference_files import write
    from benchmarks.throughput import report
    from benchmarks.throughput.launch import launch
    from benchmarks.throughput.shapes import shapes
    from benchmarks.throughput.spec import Spec
    from benchmarks.train_step import reference_config
    from easq_rec.config.command_line import parse_config

    config = (
        parse_config(args.train, prog="python -m benchmarks.throughput run --") if args.train else reference_config()
    )
    wanted = shapes(sorted(set(args.ranks)), args.requests or config.trainer.batch_size, args.scaling)
    with tempfile.TemporaryDirectory() as directory:
        data = config.data
        if not args.train:
            write(Path(directory), REFERENCE_REQUESTS)
            data = dataclasses.replace(data, path=directory)
        trainer = dataclasses.replace(config.trainer, device=args.device)
        quiet = dataclasses.replace(config.evaluation, every_steps=0)
        unsaved = dataclasses.replace(config.checkpoint, every_steps=0)
        unlogged = dataclasses.replace(config.logging, every_steps=10**9, tensorboard=False)
        config = dataclasses.replace(
            config, data=data, trainer=trainer, evaluation=quiet, checkpoint=unsaved, logging=unlogged
        )
        runs = [{"name": shape.name, **dataclasses.asdict(shape), "launches": []} for shape in wanted]
        for number in range(args.rounds):
            for shape, run in zip(wanted, runs, strict=True):
                traced = args.trace is not None and number == 0 and shape is wanted[-1]
                spec = Spec(
                    config=shape.of(config),
                    pipelines=tuple(args.pipelines),
                    independent=shape.scaling == "independent",
                    warm_up=args.warm_up,
                    windows=args.windows,
                    steps=args.steps,
                    trace=traced,
                    ceiling_s=args.ceiling_seconds,
                )
                run["launches"].append(launch(spec, shape.ranks, trace=args.trace if traced else None))
                print(report.progress(number + 1, args.rounds, run), flush=True)
    result = report.result(config, runs, args.pipelines)
    print("\n".join(report.lines(result)))
    if args.out is not None:
        report.write(result, args.out)
    return 0


REFERENCE_REQUESTS = 32_768
"""Number of requests written for the reference workload, which are read repeatedly."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
