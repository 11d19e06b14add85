"""Which ranker orders real logs best, at which cost? Peers and recipes of the project on the same requests.

    python datasets/kuairand/prepare.py --raw KuaiRand-Pure --out data/kuairand
    python -m benchmarks.rankers --data data/kuairand --out benchmarks/results/rankers.json

The last fifth of the time line is held out, by the split that training uses. Label: a valid play or a long view. Each
peer's settings are chosen on the last fifth of the training period; then it trains on the whole period. No peer and no
recipe ever gets a file with held-out outcomes. Every training runs in a process of its own, on one thread. Prints one
JSON line, and a table on stderr; draws AUC and GAUC to a PNG next to --out.

A recipe may bring options: --recipes kuairand 'kuairand_main_only --trainer.epochs 2'.
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
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rankers.impressions import Floats, Impressions, flatten, read, without_outcomes
from benchmarks.rankers.plot import draw
from benchmarks.rankers.quality import METRICS, Estimate, Truth, difference, quality
from benchmarks.rankers.worker import PEERS, RANDOM_PEERS, Job
from benchmarks.report import hardware, publish
from easq_rec.config.recipes import kuairand
from easq_rec.data.dataset import Period, split
from easq_rec.data.writer import PartWriter
from easq_rec.errors import UserError, exit_code

RECIPES = ("kuairand_main_only", "kuairand")
HOLDOUT = kuairand().data.holdout
LIBRARIES = {"lightgbm": "lightgbm", "fm": "torch-rechub", "deepfm": "torch-rechub", "din": "torch-rechub"}
"""Peer: the distribution that it needs."""
BASE = "lightgbm"
"""Differences are to this peer."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Files of one comparison. `early` and `late` are the training period, split as the whole time line is."""

    train: Path
    early: Path
    late: Path
    test: Path
    """Held-out requests without outcomes."""
    recipes: Path
    """Folder of requests/ and answers/ that recipes train on: see `write_splits`."""
    held: Impressions
    """The held-out impressions with their labels, which only this process has."""
    period: Period
    """The training period."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ranker."""

    kind: str
    """`peer` or `recipe`."""
    scores: list[Floats]
    """(N,) of each seed."""
    probability: bool
    cpu_seconds: float
    """Of one training, mean over the seeds."""
    peak_rss_mib: float
    """Maximum over the seeds; imports included."""
    tuning: dict[str, Any]
    """Chosen settings, all tries, and their CPU seconds; empty for a recipe."""


def write_splits(data: Path, folder: Path) -> Splits:
    """Divides a converted log by time.

    Recipes train on a copy in which the held-out period has only its last request. This request keeps the time line as
    it is, so that the trainer's own split cuts at the same moment, and training cannot see any other held-out request.

    Raises:
        UserError: no requests, or requests without outcomes.
    """
    if not (data / "requests").is_dir():
        raise UserError(f"--data {data}: it has no folder requests/: write it with datasets/kuairand/prepare.py")
    period, held_out = split(data / "requests", HOLDOUT)
    table = pq.read_table(data / "requests").combine_chunks()
    time_R = table["timestamp_ms"].to_numpy()
    train, test = table.filter(time_R < held_out.start_ms), table.filter(time_R >= held_out.start_ms)
    held = flatten(test, f"--data {data}")
    if held.label_N is None:
        raise UserError(f"--data {data}: candidates have no valid_play and long_view: convert the log again")
    if not len(train) or not 0 < held.label_N.sum() < len(held):
        raise UserError(
            f"--data {data}: both periods need requests, and the held-out one both labels: use a longer log"
        )

    def written(name: str, part: Any) -> Path:
        path = folder / name / "requests" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(part, path)
        return path

    recipes = folder / "recipes"
    _write(recipes / "requests", pa.concat_tables([train, test.slice(len(test) - 1)]))
    if (data / "answers").is_dir():
        answered = pq.read_table(data / "answers").combine_chunks()
        _write(recipes / "answers", answered.filter(answered["timestamp_ms"].to_numpy() < held_out.start_ms))
    assert split(recipes / "requests", HOLDOUT)[0] == period
    train_path = written("train", train)
    cut = split(train_path.parent, HOLDOUT)[1].start_ms
    time_R = train["timestamp_ms"].to_numpy()
    return Splits(
        train=train_path,
        early=written("early", train.filter(time_R < cut)),
        late=written("late", train.filter(time_R >= cut)),
        test=written("test", without_outcomes(test)),
        recipes=recipes,
        held=held,
        period=period,
    )


def _write(folder: Path, requests: pa.Table) -> None:
    """Writes a dataset as the converter does."""
    writer = PartWriter(folder)
    writer.write(requests)
    writer.close()


class Workers:
    """Runs jobs one after another, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def run(self, job: Job) -> tuple[dict[str, Any], Floats | None]:
        """(result, scores) of a job. Raises UserError with the message of a job that fails."""
        self._count += 1
        path = self._folder / f"{self._count:03d}-{job.kind}.json"
        path.write_text(json.dumps(dataclasses.asdict(job)))
        print(f"{job.kind:>7} {job.ranker}, seed {job.seed}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.rankers.worker", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            said = " ".join(lines[-1:]) if done.returncode == 2 else "\n".join(lines[-20:])
            raise UserError(f"{job.ranker}: {said.removeprefix('easq-rec: ')}")
        scores = path.with_suffix(".scores.npy")
        return json.loads(path.with_suffix(".result.json").read_text()), np.load(scores) if scores.exists() else None


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


def compare(data: Path, *, seeds: int, rankers: Sequence[str], recipes: Sequence[str], work: Path) -> dict[str, Any]:
    """Trains and scores everything; returns the result as JSON values."""
    begin = time.perf_counter()
    libraries = _versions(rankers)
    splits, workers = write_splits(data, work), Workers(work)
    rows = {name: run_peer(name, splits, workers, seeds) for name in rankers}
    rows |= {recipe: run_recipe(recipe, splits, workers, seeds) for recipe in recipes}
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
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), help="recipes of the project")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: expected at least 1")
    with tempfile.TemporaryDirectory() as work:
        result = compare(args.data, seeds=args.seeds, rankers=args.rankers, recipes=args.recipes, work=Path(work))
    publish(result, args.out)
    if args.out is not None and result["rows"]:
        title = f"{result['held_out']['impressions']:,} held-out impressions, mean of {args.seeds} seeds, 95% intervals"
        draw(result["rows"], args.out.with_suffix(".png"), title=title)
    print(table(result["rows"]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
