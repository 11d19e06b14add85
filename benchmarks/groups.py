"""What do pairs of a user's candidates across requests teach, on a log whose requests mostly have one candidate?

    python datasets/kuairand/prepare.py --raw KuaiRand-Pure --out data/kuairand
    python -m benchmarks.groups --data data/kuairand --out benchmarks/results/groups.json

Every row is a recipe with options. L_point is always on. Rows differ in the loss that compares candidates, in what it
compares (`losses.groups`), and in how many requests of a user the shuffle keeps together (`data.user_requests`). In the
rows `whole` the log is one shuffle window, in which all requests of a user can be brought together. The last fifth of
the time line is held out, as in `benchmarks.rankers`: same label, split, metrics and resamples. Nothing was chosen by
it.

Pairs are counted in the batches of the first epoch, without the network: for L_main and L_list those whose utility
differs, for L_dense all, in aligned steps. `in_pairs` is the share of the training impressions that are in a pair.
Prints one JSON line, and a table on stderr.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rankers.impressions import Floats
from benchmarks.rankers.launch import Workers
from benchmarks.rankers.quality import Estimate, Truth, difference, quality
from benchmarks.rankers.splits import HOLDOUT, Splits, write_splits
from benchmarks.rankers.worker import Job
from benchmarks.report import hardware, publish
from easq_rec.config.command_line import parse_config
from easq_rec.data.sources import open_sources
from easq_rec.errors import exit_code
from easq_rec.losses.comparison import Comparison
from easq_rec.losses.ranks import OneRank
from easq_rec.losses.term import terms_of

MAIN = "kuairand_main_only"
ALIGNED = "kuairand --losses.dense.weight 0.3 --model.satisfaction-weight 0 --losses.warmup-per-class 10"
"""The log has fewer answers than L_dense waits for in the recipe."""
USER = "--losses.groups user"
WHOLE = "--data.shuffle-row-groups 1000"


def _main(weight: float, options: str) -> str:
    return f"{MAIN} --losses.main.weight {weight} {options}"


def _list(weight: float, options: str) -> str:
    return f"{MAIN} --losses.listwise.weight {weight} {options}"


ROWS = {
    "L_point": MAIN,
    "L_point, order of 8": f"{MAIN} --data.user-requests 8",
    "L_point, order of 8, whole": f"{MAIN} --data.user-requests 8 {WHOLE}",
    "L_main 0.3, request": _main(0.3, ""),
    "L_main 0.3, user": _main(0.3, USER),
    "L_main 0.3, user, order of 4": _main(0.3, f"{USER} --data.user-requests 4"),
    "L_main 0.3, user, order of 8": _main(0.3, f"{USER} --data.user-requests 8"),
    "L_main 0.3, user, order of 8, whole": _main(0.3, f"{USER} --data.user-requests 8 {WHOLE}"),
    "L_main 1, request": _main(1.0, ""),
    "L_main 1, user, order of 8": _main(1.0, f"{USER} --data.user-requests 8"),
    "L_main 1, user, order of 8, whole": _main(1.0, f"{USER} --data.user-requests 8 {WHOLE}"),
    "L_list 0.3, request": _list(0.3, ""),
    "L_list 0.3, user, order of 8": _list(0.3, f"{USER} --data.user-requests 8"),
    "L_dense, request": ALIGNED,
    "L_dense, user": f"{ALIGNED} {USER}",
    "L_dense, user, order of 8": f"{ALIGNED} {USER} --data.user-requests 8",
}
"""Name of a row: the arguments of `easq-rec train`."""
METRICS = ("auc", "gauc")


def compared(recipe: str, data: Path) -> dict[str, Any]:
    """Pairs of the first epoch, and the share of impressions that are in one."""
    config = parse_config([*shlex.split(recipe), "--data.holdout", str(HOLDOUT)], prog="benchmarks.groups")
    sources = open_sources(config, data)
    utility = [outcome.weight_in_training for outcome in config.schema.outcomes]
    counting = Comparison(config.losses, terms_of(config.losses), utility, OneRank())
    dense = config.losses.dense.weight > 0
    comparing = dense or config.losses.main.weight > 0 or config.losses.listwise.weight > 0
    pairs = inside = total = 0
    for batch, _ in sources.loader.batches(sources.loader.start(), steps=sources.reader.steps_per_epoch):
        found = counting(batch).pairs
        total += batch.stream.candidates
        if comparing and (batch.aligned or not dense):
            either_GCC = found.real_GCC if dense else found.better_GCC | found.better_GCC.transpose(1, 2)
            pairs += int(either_GCC.sum()) // 2
            inside += int(either_GCC.any(-1).sum())
    return {"pairs": pairs, "in_pairs": round(inside / total, 4)}


def train(name: str, recipe: str, splits: Splits, workers: Workers, seeds: int) -> tuple[list[Floats], dict[str, Any]]:
    """(scores of the held-out impressions of every seed, cost and pairs) of a row."""
    scores, seconds = [], []
    for seed in range(seeds):
        job = Job(
            ranker=recipe, kind="recipe", train=str(splits.recipes), held=str(splits.test), seed=seed, holdout=HOLDOUT
        )
        result, score_N = workers.run(job)
        assert score_N is not None
        scores.append(score_N)
        seconds.append(result["cpu_seconds"])
    counts = compared(recipe, splits.recipes)
    print(f"{name}: {counts}", file=sys.stderr, flush=True)
    return scores, {"recipe": recipe, "cpu_seconds": round(statistics.mean(seconds), 1), **counts}


def summary(rows: dict[str, tuple[list[Floats], dict[str, Any]]], truth: Truth) -> dict[str, Any]:
    """AUC and GAUC of every row, and the differences to the first of the same recipe, with intervals over users."""
    result: dict[str, Any] = {}
    first: dict[str, str] = {}
    for name, (scores, about) in rows.items():
        base = first.setdefault(about["recipe"].split()[0], name)
        values = {metric: _rounded(found) for metric, found in quality(scores, truth, probability=False).items()}
        result[name] = about | {metric: values[metric] for metric in METRICS}
        result[name]["by_seed"] = [
            {
                metric: round(quality([one], truth, probability=False, resamples=0)[metric].value, 4)
                for metric in METRICS
            }
            for one in scores
        ]
        if name != base:
            minus = difference(scores, rows[base][0], truth)
            result[name]["minus"] = base
            result[name]["difference"] = {metric: _rounded(minus[metric]) for metric in METRICS}
    return result


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {key: round(value, 4) for key, value in asdict(estimate).items()}


def table(rows: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = ["| loss beside L_point | pairs | in pairs | AUC | GAUC | CPU s |", "|---" * 6 + "|"]
    for name, row in rows.items():
        cells = []
        for metric in METRICS:
            minus = row.get("difference", {}).get(metric)
            tail = f" ({minus['value']:+.4f} [{minus['low']:+.4f}, {minus['high']:+.4f}])" if minus else ""
            cells.append(f"{row[metric]['value']:.4f}{tail}")
        counts = f"{row['pairs']:,} | {row['in_pairs']:.0%}"
        lines.append(f"| {name} | {counts} | {' | '.join(cells)} | {row['cpu_seconds']:.0f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that datasets/kuairand/prepare.py wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        splits, workers = write_splits(args.data, temporary / "splits"), Workers(temporary, temporary, {})
        held = splits.held
        truth = Truth(label_N=held.labels, user_N=held.user_R[held.request_N], request_N=held.request_N)
        rows = {name: train(name, ROWS[name], splits, workers, args.seeds) for name in args.rows}
    request_sizes = np.bincount(held.request_N)
    result = {
        "benchmark": "groups",
        "seeds": args.seeds,
        "held_out": {
            "impressions": len(held),
            "requests": len(request_sizes),
            "with_one_candidate": round(float((request_sizes == 1).mean()), 4),
        },
        "rows": summary(rows, truth),
        "wall_seconds": round(time.perf_counter() - begin),
        **hardware(),
    }
    publish(result, args.out)
    print(table(result["rows"]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
