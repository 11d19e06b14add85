"""Do the towers route, and do several experts pay? Open gates of recipes, and 6+2 experts against one per tower.

    python datasets/kuairand/prepare.py --raw KuaiRand-Pure --out data/kuairand
    python datasets/movielens/prepare.py --raw ML100K --out data/movielens
    python -m benchmarks.routing --kuairand data/kuairand --movielens data/movielens --out FILE.json

Trains through the command line, one run after another, each on one thread. Seed s is the training seed, and on the
built-in world also the seed of the world. Every run has one of these towers, whatever its recipe has:

- routed:        6 experts in the main tower, 2 in the satisfaction tower, with the default target activity
- uncontrolled:  the same without a target: nothing but gradients moves the routers
- equal:         one expert per tower, as wide as the experts of `routed` together: the same multiply-adds
- small:         one expert per tower, as wide as one expert of `routed`

`gates` counts the held-out candidates for which a gate is open at the end of training: a dead expert is open for none
of them. `quality` has the held-out metrics. CPU seconds are those of the whole command, start and evaluation included.
Prints one JSON line, and tables on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rankers.quality import Truth, quality
from benchmarks.report import hardware, publish
from easq_rec.config import Config, Tower
from easq_rec.config.recipes import BASES, recipe
from easq_rec.config.serialization import to_dict
from easq_rec.data.dataset import split
from easq_rec.data.sources import open_holdout, world_directory
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.evaluation.predict import batches
from easq_rec.run_directory.checkpoint_files import checkpoint_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.run_directory.metrics_file import final_record
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.score import load_ranker
from easq_rec.tools.simulation.world import ensure
from easq_rec.training.process import quiet

EXPERTS = {"main": 6, "satisfaction": 2}
TOWERS = ("routed", "uncontrolled", "equal", "small")
RECIPES = ("quickstart", "quickstart_main_only", "quickstart_paper", "kuairand", "kuairand_main_only", "movielens")
"""Trained with `routed` towers, to look at their gates."""
COMPARED = {
    "quickstart": ("engagement_ndcg5", "satisfaction_ndcg5", "gauc"),
    "kuairand_main_only": ("auc", "gauc"),
}
"""Trained with all towers, and the metrics by which they are compared."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    recipe: str
    towers: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.towers}-{self.seed}"


def tower(kind: str, name: str, hidden: int, out: int) -> Tower:
    """A tower of one of `TOWERS`; `hidden` is the width of one of the routed experts."""
    match kind:
        case "routed":
            return Tower(experts=EXPERTS[name], hidden=hidden, out=out)
        case "uncontrolled":
            return Tower(experts=EXPERTS[name], hidden=hidden, out=out, activity=None)
        case "equal":
            return Tower(experts=1, hidden=EXPERTS[name] * hidden, out=out)
        case _:
            return Tower(experts=1, hidden=hidden, out=out)


def multiply_adds(tower: Tower, dim: int) -> dict[str, int]:
    """Multiply-adds of the linears per candidate: of the experts, and of the router."""
    experts = tower.experts * tower.hidden * (dim + tower.out)
    return {"experts": experts, "router": dim * tower.experts if tower.experts > 1 else 0}


def config_of(job: Job) -> Config:
    """The recipe with the towers and the seed of a job."""
    config = recipe(job.recipe)
    # As wide as the satisfaction tower of the recipe's base.
    base = next(recipe(name) for name in sorted(BASES, key=len, reverse=True) if job.recipe.startswith(name))
    assert base.model.satisfaction is not None
    hidden, out = base.model.satisfaction.out, base.model.satisfaction.out
    towers: dict[str, Any] = {name: tower(job.towers, name, hidden, out) for name in config.model.towers}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **towers),
        world=dataclasses.replace(config.world, seed=job.seed),
        trainer=dataclasses.replace(config.trainer, seed=job.seed, threads=1),
        logging=dataclasses.replace(config.logging, tensorboard=False),
    )


def train(job: Job, data: Path | None, folder: Path) -> dict[str, Any]:
    """Trains a job in a separate process; returns its result as JSON values.

    Args:
        data: None: the built-in world.
    """
    config = config_of(job)
    if data is None:
        data = world_directory(config)
        ensure(config.world, data)
    path, run_dir = folder / "config.json", folder / "run"
    path.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "easq_rec.cli", "train", str(path), "--data", str(data), "--run-dir", str(run_dir)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    final = final_record(RunDirectory(run_dir).metrics)
    assert final is not None
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        **held_out(run_dir, data),
        "evaluation": {name: value for name, value in final.values.items() if name.endswith("ndcg5") or name == "gauc"},
    }


@torch.no_grad()
def held_out(run_dir: Path, data: Path) -> dict[str, Any]:
    """Share of open gates by tower, (K,) each, with AUC and GAUC of any engagement, on the held-out requests."""
    quiet()
    config = load_config(run_dir)
    period = split(data / "requests", config.data.holdout)[1]
    dataset, _ = open_holdout(config, data / "requests", period)
    ranker = load_ranker(config, checkpoint_of(run_dir, best=False), policy_only=False)
    gates: dict[str, list[torch.Tensor]] = {name: [] for name in config.model.towers}
    score, label, user, request, requests = [], [], [], [], 0
    for batch in batches(dataset, config, truth=None):
        output, candidates = ranker(batch), batch.stream.candidates
        score.append(output.main.score_N[:candidates].numpy())
        label.append((batch.outcome_NO[:candidates] > 0).any(1).numpy())
        length_R = batch.candidate_offsets_R1.diff()[: batch.stream.requests].numpy()
        user.append(np.repeat(batch.keys.user_id_R[: len(length_R)], length_R))
        request.append(requests + np.repeat(np.arange(len(length_R)), length_R))
        requests += len(length_R)
        for name, found in (("main", output.main), ("satisfaction", output.reference)):
            if found is not None:
                gates[name].append((found.gate_NK[:candidates] > 0).float())
    truth = Truth(label_N=np.concatenate(label), user_N=np.concatenate(user), request_N=np.concatenate(request))
    found = quality([np.concatenate(score)], truth, probability=False, resamples=0)
    return {
        "candidates": len(truth.label_N),
        "gates": {name: torch.cat(parts).double().mean(0).tolist() for name, parts in gates.items()},
        **{name: found[name].value for name in ("auc", "gauc")},
    }


def gates_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the gates of all experts and seeds have in common, by tower."""
    summary: dict[str, Any] = {}
    for name in runs[0]["gates"]:
        shares = [run["gates"][name] for run in runs]
        every = [share for seed in shares for share in seed]
        summary[name] = {
            "experts": len(every),
            "least": round(min(every), 4),
            "most": round(max(every), 4),
            "dead": sum(share == 0 for share in every),
            "always_open": sum(share == 1 for share in every),
            "below_5_percent": sum(share < 0.05 for share in every),
            "above_95_percent": sum(share > 0.95 for share in every),
            "runs_with_a_dead_expert": sum(min(seed) == 0 for seed in shares),
            "share_by_seed": [[round(share, 4) for share in seed] for seed in shares],
        }
    return summary


def metrics_of(recipe: str, run: dict[str, Any]) -> dict[str, float]:
    """The metrics by which the towers of a recipe are compared."""
    source = run if recipe.startswith("kuairand") else run["evaluation"]
    return {name: source[name] for name in COMPARED[recipe]}


def quality_of(recipe: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean metrics of the towers of a recipe, and differences to `equal` from runs of the same seed, with t
    intervals."""
    summary: dict[str, Any] = {}
    values = {kind: [metrics_of(recipe, run) for run in found] for kind, found in runs.items()}
    for kind, found in runs.items():
        config = config_of(Job(recipe=recipe, towers=kind, seed=0))
        mean = {name: round(statistics.mean(one[name] for one in values[kind]), 4) for name in COMPARED[recipe]}
        minus = {}
        for name in COMPARED[recipe] if kind != "equal" else ():
            pairs = zip(values[kind], values["equal"], strict=True)
            interval = t_interval(mine[name] - theirs[name] for mine, theirs in pairs)
            minus[name] = {key: round(getattr(interval, key), 4) for key in ("value", "low", "high")}
        summary[kind] = {
            "mean": mean,
            "minus_equal": minus,
            "cpu_seconds": round(statistics.mean(run["cpu_seconds"] for run in found), 1),
            "multiply_adds": {name: multiply_adds(one, config.model.dim) for name, one in config.model.towers.items()},
            "by_seed": [{name: round(value, 4) for name, value in one.items()} for one in values[kind]],
        }
    return summary


def jobs(seeds: int, compared: int) -> Iterable[Job]:
    """All trainings; what is compared takes turns, so that a change of the machine's speed reaches all towers."""
    for seed in range(compared):
        for name in COMPARED:
            yield from (Job(recipe=name, towers=kind, seed=seed) for kind in ("routed", "equal", "small"))
    for seed in range(seeds):
        yield from (Job(recipe=name, towers="routed", seed=seed) for name in RECIPES)
    for seed in range(compared):
        yield from (Job(recipe=name, towers="uncontrolled", seed=seed) for name in COMPARED)


def data_of(recipe: str, folders: dict[str, Path]) -> Path | None:
    return next((path for name, path in folders.items() if recipe.startswith(name)), None)


Results = dict[str, dict[str, dict[int, dict[str, Any]]]]
"""Results by recipe, towers and seed."""


def run_all(todo: Iterable[Job], folders: dict[str, Path], work: Path) -> Results:
    """Trains the jobs. Results that are in the folder `work` are taken from it."""
    found: Results = {}
    for job in todo:
        kept = work / f"{job.name}.json"
        if not kept.exists():
            with tempfile.TemporaryDirectory() as folder:
                result = train(job, data_of(job.recipe, folders), Path(folder))
            kept.write_text(json.dumps(result))
            print(f"{job.name}: {result['cpu_seconds']} CPU s", file=sys.stderr, flush=True)
        found.setdefault(job.recipe, {}).setdefault(job.towers, {})[job.seed] = json.loads(kept.read_text())
    return found


def tables(result: dict[str, Any]) -> str:
    """The gates and the comparison in Markdown."""
    lines = ["| recipe | towers | tower | least | most | dead | always open | of |", "|---" * 8 + "|"]
    for name, kinds in result["gates"].items():
        for kind, towers in kinds.items():
            for tower_name, row in towers.items():
                cells = (f"{row['least']:.3f}", f"{row['most']:.3f}", row["dead"], row["always_open"], row["experts"])
                lines.append(f"| `{name}` | {kind} | {tower_name} | " + " | ".join(map(str, cells)) + " |")
    for name, kinds in result["quality"].items():
        lines += [
            "",
            f"| `{name}` | " + " | ".join(COMPARED[name]) + " | CPU s |",
            "|---" * (len(COMPARED[name]) + 2) + "|",
        ]
        for kind, row in kinds.items():
            cells = []
            for metric, value in row["mean"].items():
                one = row["minus_equal"].get(metric)
                tail = f" ({one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}])" if one else ""
                cells.append(f"{value:.4f}{tail}")
            lines.append(f"| {kind} | " + " | ".join(cells) + f" | {row['cpu_seconds']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kuairand", type=Path, required=True, help="folder that datasets/kuairand/prepare.py wrote")
    parser.add_argument("--movielens", type=Path, required=True, help="folder that datasets/movielens/prepare.py wrote")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each recipe, for the gates")
    parser.add_argument("--compared", type=int, default=5, help="seeds of the comparison, at most --seeds")
    parser.add_argument("--work", type=Path, help="folder that keeps each run's result; None: a temporary one")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    begin = time.perf_counter()
    folders = {"kuairand": args.kuairand, "movielens": args.movielens}
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        runs = run_all(jobs(args.seeds, args.compared), folders, work)
    result = {
        "benchmark": "routing",
        "seeds": args.seeds,
        "compared_seeds": args.compared,
        "gates": {
            name: {kind: gates_of(list(kinds[kind].values())) for kind in kinds if kind in ("routed", "uncontrolled")}
            for name, kinds in runs.items()
        },
        "quality": {
            name: quality_of(name, {k: [found[s] for s in range(args.compared)] for k, found in runs[name].items()})
            for name in COMPARED
        },
        "wall_seconds": round(time.perf_counter() - begin),
        **hardware(),
    }
    publish(result, args.out)
    print(tables(result), file=sys.stderr)


if __name__ == "__main__":
    main()
