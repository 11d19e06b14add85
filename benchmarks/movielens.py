"""What are the gain and the cost of alignment on MovieLens-100K? main_only, paper and easq, mean over seeds.

Trains each recipe with each seed through the command line, on one thread, and reads the metrics on the last fifth of
the time line. Prints one JSON line, and the table of the README on stderr.

    python datasets/movielens/prepare.py --raw ML100K --out data/movielens
    python -m benchmarks.movielens --data data/movielens [--seeds 3] [--out FILE.json]
        [--only RECIPE ... --earlier FILE.json]

With --only, other recipes are not trained: their runs are those of an earlier result of as many seeds, and the result
names them. It is meant for a change that touches one recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.report import hardware
from easq_rec.config.recipes import movielens
from easq_rec.data.dataset import split
from easq_rec.run_directory.metrics_file import final_record
from easq_rec.run_directory.paths import RunDirectory

RECIPES = {"main_only": "movielens_main_only", "paper": "movielens_paper", "easq": "movielens"}
RECIPE_HOLDOUT = movielens().data.holdout
COLUMNS = {
    "satisfaction_ndcg5": "rating NDCG@5",
    "satisfaction_ndcg10": "rating NDCG@10",
    "pair_accuracy": "rating pair accuracy",
    "engagement_ndcg5": "engagement NDCG@5",
    "gauc": "GAUC",
}


def train(recipe: str, data: Path, seed: int, run_dir: Path) -> dict[str, float]:
    """The final metrics of one run."""
    command = [sys.executable, "-m", "easq_rec.cli", "train", recipe, "--data", str(data), "--run-dir", str(run_dir)]
    options = ["--trainer.seed", str(seed), "--trainer.threads", "1", "--logging.tensorboard", "False"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    final = final_record(RunDirectory(run_dir).metrics)
    assert final is not None
    return final.values


def new_user_share(data: Path) -> float:
    """Share of the held-out requests whose user has no training request."""
    table = pq.read_table(data / "requests", columns=["user_id", "timestamp_ms"])
    users, times = table["user_id"].to_numpy(), table["timestamp_ms"].to_numpy()
    cut = split(data / "requests", RECIPE_HOLDOUT)[1].start_ms
    return float(1 - np.isin(users[times >= cut], users[times < cut]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--earlier", type=Path)
    args = parser.parse_args()
    kept = [name for name in RECIPES if name not in args.only]
    if bool(kept) != (args.earlier is not None):
        parser.error("--only and --earlier belong together")
    earlier = json.loads(args.earlier.read_text()) if kept else {}
    if kept and earlier["seeds"] != args.seeds:
        parser.error(f"{args.earlier} has {earlier['seeds']} seeds, not {args.seeds}")
    begin = time.perf_counter()
    runs: dict[str, list[dict[str, float]]] = {name: earlier["runs"][name] if name in kept else [] for name in RECIPES}
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(args.seeds):
            for name in args.only:
                runs[name].append(train(RECIPES[name], args.data, seed, Path(directory) / f"{name}-{seed}"))
    mean = {
        name: {column: round(statistics.mean(run[column] for run in found), 4) for column in COLUMNS}
        for name, found in runs.items()
    }
    result = {
        "benchmark": "movielens",
        "seeds": args.seeds,
        **({"earlier": kept} if kept else {}),
        "new_user_share": round(new_user_share(args.data), 3),
        "mean": mean,
        "runs": {name: [{c: round(run[c], 4) for c in COLUMNS} for run in found] for name, found in runs.items()},
        "wall_seconds": round(time.perf_counter() - begin),
        **hardware(),
    }
    print(json.dumps(result))
    print("| recipe | " + " | ".join(COLUMNS.values()) + " |", file=sys.stderr)
    print("|---" * (len(COLUMNS) + 1) + "|", file=sys.stderr)
    for name, row in mean.items():
        print(f"| `{name}` | " + " | ".join(f"{row[column]:.4f}" for column in COLUMNS) + " |", file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
