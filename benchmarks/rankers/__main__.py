"""Which ranker orders real logs best, at which cost? Peers and recipes of the project on the same requests.

    python datasets/kuairand/prepare.py --raw KuaiRand-Pure --out data/kuairand
    python -m benchmarks.rankers --data data/kuairand --out benchmarks/results/rankers.json

The last fifth of the time line is held out, by the split that training uses. Label: a valid play or a long view. Each
peer's settings are chosen on the last fifth of the training period; then it trains on the whole period. No peer gets a
file with held-out outcomes, and no recipe with more than one such request. Every training runs in a separate process,
on one thread. Prints one JSON line, and a table on stderr; draws AUC and GAUC to a PNG next to --out.

A recipe may bring options: --recipes kuairand 'kuairand_main_only --trainer.epochs 2'. --recipes without a name trains
none. With --average, a last row averages the standardised scores of some rows. With --work, trainings of peers are
kept in a folder, and a later call with the same data and the same code of the peers does not repeat them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rankers.impressions import Floats, Impressions, read
from benchmarks.rankers.launch import Workers
from benchmarks.rankers.plot import draw
from benchmarks.rankers.quality import METRICS, Estimate, Truth, difference, quality
from benchmarks.rankers.splits import HOLDOUT, Splits, write_splits
from benchmarks.rankers.worker import PEERS, RANDOM_PEERS, Job
from benchmarks.report import hardware, publish
from easq_rec.errors import UserError, exit_code

RECIPES = ("kuairand_main_only", "kuairand")
LIBRARIES = {
    "lightgbm": "lightgbm",
    **dict.fromkeys(("fm", "deepfm", "din", "mmoe"), "torch-rechub"),
    "dcn": "deepctr-torch",
}
"""Peer: the distribution that it needs."""
BASE = "lightgbm"
"""Differences are to this peer."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ranker."""

    kind: str
    """`peer`, `recipe` or `average`."""
    scores: list[Floats]
    """(N,) of each seed."""
    probability: bool
    cpu_seconds: float
    """Of one training, mean over the seeds."""
    peak_rss_mib: float
    """Maximum over the seeds; imports included."""
    tuning: dict[str, Any]
    """Chosen settings, all tries, and their CPU seconds; empty for a recipe."""


def run_peer(name: str, splits: Splits, workers: Workers, seeds: int) -> Row:
    """Chooses the settings of a peer, then trains and scores with every seed."""
    tuned, _ = workers.run(Job(ranker=name, kind="tune", train=str(splits.early), held=str(splits.late)))
    runs = [
        workers.run(
            Job(
                ranker=name,
                kind="fit",
                train=str(splits.train),
                held=str(splits.test),
                seed=seed,
                settings=tuned["settings"],
            )
        )
        for seed in range(seeds if name in RANDOM_PEERS else 1)
    ]
    tuning = {
        "settings": tuned["settings"],
        "tuning_cpu_seconds": round(tuned["cpu_seconds"], 1),
        "tried": tuned["tried"],
    }
    return _row("peer", runs, tuning)


def run_recipe(recipe: str, splits: Splits, workers: Workers, seeds: int) -> Row:
    """Trains and scores a recipe with every seed."""
    runs = [
        workers.run(
            Job(
                ranker=recipe,
                kind="recipe",
                train=str(splits.recipes),
                held=str(splits.test),
                seed=seed,
                holdout=HOLDOUT,
            )
        )
        for seed in range(seeds)
    ]
    return _row("recipe", runs, {})


def average(rows: Sequence[Row]) -> Row:
    """The mean of several rankers' standardised scores: about what one ranker could still learn from the others.

    Of rankers with fewer seeds than others, the scores of their first seeds are used again.
    """
    seeds = max(len(row.scores) for row in rows)
    standard = [[(score_N - score_N.mean()) / score_N.std() for score_N in row.scores] for row in rows]
    return Row(
        kind="average",
        scores=[np.mean([one[seed % len(one)] for one in standard], axis=0) for seed in range(seeds)],
        probability=False,
        cpu_seconds=sum(row.cpu_seconds for row in rows),
        peak_rss_mib=max(row.peak_rss_mib for row in rows),
        tuning={},
    )


def _row(kind: str, runs: Sequence[tuple[dict[str, Any], Floats | None]], tuning: dict[str, Any]) -> Row:
    results = [result for result, _ in runs]
    return Row(
        kind=kind,
        scores=[score_N for _, score_N in runs if score_N is not None],
        probability=bool(results[0]["probability"]),
        cpu_seconds=statistics.mean(result["cpu_seconds"] for result in results),
        peak_rss_mib=max(result["peak_rss_mib"] for result in results),
        tuning=tuning,
    )


def summary(rows: dict[str, Row], splits: Splits) -> dict[str, Any]:
    """The JSON of every ranker: metrics with intervals, differences to `BASE`, cost and tuning."""
    held, train = splits.held, read(splits.train)
    truth = Truth(label_N=held.labels, user_N=held.user_R[held.request_N], request_N=held.request_N)
    result: dict[str, Any] = {}
    for name, row in rows.items():
        found = quality(row.scores, truth, probability=row.probability)
        result[name] = {
            "kind": row.kind,
            "seeds": len(row.scores),
            **{metric: _rounded(found[metric]) if metric in found else None for metric in METRICS},
        }
        if BASE in rows and name != BASE:
            compared = difference(row.scores, rows[BASE].scores, truth)
            result[name][f"minus_{BASE}"] = {metric: _rounded(one) for metric, one in compared.items()}
        result[name] |= {
            "train_cpu_seconds": round(row.cpu_seconds, 2),
            "train_impressions_per_cpu_second": round(len(train) / row.cpu_seconds),
            "peak_rss_mib": round(row.peak_rss_mib),
            **row.tuning,
        }
    return result


def table(result: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    heads = ("AUC", "GAUC", "log loss", "NDCG@5")
    lines = [
        f"| ranker | {' | '.join(heads)} | training impressions per CPU second | peak RSS, MiB |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for name, row in result.items():
        cells = [
            f"{row[metric]['value']:.4f} [{row[metric]['low']:.4f}, {row[metric]['high']:.4f}]" if row[metric] else "-"
            for metric in METRICS
        ]
        speed, memory = f"{row['train_impressions_per_cpu_second']:,}", f"{row['peak_rss_mib']:,}"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {speed} | {memory} |")
    return "\n".join(lines)


def _size(rows: Impressions) -> dict[str, Any]:
    """Requests, impressions, and the share of positives."""
    rate = round(float(rows.labels.mean()), 4)
    return {"requests": len(rows.request_id_R), "impressions": len(rows), "positive": rate}


def _rounded(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 4) for name, value in dataclasses.asdict(estimate).items()}


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of the libraries of these peers. Raises UserError if one is not installed."""
    found = {}
    for name in names:
        if name in LIBRARIES:
            try:
                found[LIBRARIES[name]] = version(LIBRARIES[name])
            except PackageNotFoundError as error:
                raise UserError(
                    f"--rankers {name}: needs the package {LIBRARIES[name]}: pip install 'easq-rec[rankers]', or "
                    f"choose others, such as --rankers popularity naive_bayes"
                ) from error
    return found


def compare(
    data: Path,
    *,
    seeds: int,
    rankers: Sequence[str],
    recipes: Sequence[str],
    averaged: Sequence[str] = (),
    temporary: Path,
    work: Path,
) -> dict[str, Any]:
    """Trains and scores everything; returns the result as JSON values.

    Args:
        averaged: rankers and recipes whose scores a last row averages.
        temporary: an empty folder for the files of the splits and of the recipes' trainings.
        work: folder of the peers' trainings, see `Workers`.
    """
    begin = time.perf_counter()
    if unknown := [name for name in averaged if name not in (*rankers, *recipes)]:
        raise UserError(f"--average {unknown[0]!r}: no such row: name some of {', '.join((*rankers, *recipes))}")
    libraries = _versions(rankers)
    splits, workers = write_splits(data, temporary / "splits"), Workers(work, temporary, libraries)
    rows = {name: run_peer(name, splits, workers, seeds) for name in rankers}
    rows |= {recipe: run_recipe(recipe, splits, workers, seeds) for recipe in recipes}
    if averaged:
        rows["average"] = average([rows[name] for name in averaged])
    train = read(splits.train)
    return {
        "benchmark": "rankers",
        "seeds": seeds,
        "label": "valid_play or long_view",
        "train": _size(train),
        "held_out": _size(splits.held) | {"start_ms": splits.period.end_ms},
        "features": list(train.features.names),
        "rows": summary(rows, splits),
        "wall_seconds": round(time.perf_counter() - begin),
        **libraries,
        **hardware(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that datasets/kuairand/prepare.py wrote")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each ranker that depends on a seed")
    parser.add_argument("--rankers", nargs="*", choices=PEERS, default=list(PEERS), help="peers")
    parser.add_argument(
        "--recipes", nargs="*", default=list(RECIPES), help="recipes of the project; without a name none is trained"
    )
    parser.add_argument("--average", nargs="*", default=[], help="rankers and recipes whose average is a last row")
    parser.add_argument("--work", type=Path, help="folder that keeps the trainings of peers; None: a temporary one")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: expected at least 1")
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        result = compare(
            args.data,
            seeds=args.seeds,
            rankers=args.rankers,
            recipes=args.recipes,
            averaged=args.average,
            temporary=temporary,
            work=args.work or temporary / "work",
        )
    publish(result, args.out)
    if args.out is not None and result["rows"]:
        title = f"{result['held_out']['impressions']:,} held-out impressions, mean of {args.seeds} seeds, 95% intervals"
        draw(result["rows"], args.out.with_suffix(".png"), title=title)
    print(table(result["rows"]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
