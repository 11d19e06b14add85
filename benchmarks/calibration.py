"""Are the predicted outcomes right on real logs: later than training, after maps, and after a thinned log?

    python datasets/kuairand/prepare.py --raw KuaiRand-Pure --out data/kuairand
    python -m benchmarks.calibration --data data/kuairand --out benchmarks/results/calibration.json

- later: maps are fitted to the earlier half of the held-out period, and all is measured on the later half. Recipes by
  default: kuairand_main_only, and kuairand, whose policy is aligned.
- thinned: kuairand_main_only is trained on a copy of the log that keeps a quarter of the candidates with neither
  outcome. All is measured on the whole held-out log. `declared` says in the schema how many negatives were kept of
  each outcome, `silent` does not. For long_view this is the mean share: its negatives with a valid play were all kept.

Every training runs in a separate process, on one thread. Figures are means over the seeds, of values and of the ends of
95% bootstrap intervals over users. Calibration errors come with that of perfect predictions, which is not 0: outcomes
are drawn from probabilities. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.report import hardware, publish
from easq_rec.config.recipes import kuairand
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.evaluation.calibration_map import CalibrationMethod
from easq_rec.evaluation.metrics.intervals import Interval, estimates
from easq_rec.evaluation.results import Evaluated
from easq_rec.run_directory.calibration_file import write_calibration
from easq_rec.serving.calibrate import calibrate
from easq_rec.serving.evaluate import evaluate

RECIPES = ("kuairand_main_only", "kuairand")
METHODS: tuple[CalibrationMethod, ...] = ("temperature", "isotonic")
KEPT = 0.25
"""Share of the candidates without any outcome in the thinned log."""
Figures = dict[str, dict[str, float]]
"""By metric: value, low, high."""


def train(recipe: str, data: Path, run_dir: Path, seed: int, *options: str) -> Path:
    """Trains a recipe in another process; returns its directory."""
    print(f"training {run_dir.name}", file=sys.stderr, flush=True)
    words = ["train", recipe, "--data", str(data), "--run-dir", str(run_dir), "--trainer.seed", str(seed)]
    words += ["--trainer.threads", "1", "--logging.tensorboard", "False", "--logging.every-steps", "100", *options]
    command = [sys.executable, "-m", "easq_rec.cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{recipe}: exit code {done.returncode}: {done.stderr.strip()[-4_000:]}")
    return run_dir


def figures(found: dict[str, Interval]) -> Figures:
    """Values and interval ends of the metrics of outcomes, and GAUC."""
    names = [name for name in found if name.startswith("outcome_") or name == "gauc"]
    return {name: dataclasses.asdict(found[name]) for name in names if not math.isnan(found[name].value)}


def perfect_error(evaluated: Evaluated, outcome: str) -> float:
    """The calibration error to expect if all probabilities were right: the mean distance of a binomial share."""
    bins = evaluated.outcome_reliability()[outcome]
    total = sum(one["candidates"] for one in bins)
    distances = (
        one["candidates"] * math.sqrt(2 * one["predicted"] * (1 - one["predicted"]) / (math.pi * one["candidates"]))
        for one in bins
    )
    return sum(distances) / total


def later(run: Path, resamples: int) -> dict[str, Figures]:
    """Figures on the later half of the held-out period, without a map and with each."""
    rows: dict[str, Figures] = {}
    for method in METHODS:
        found = calibrate(run, None, method=method)
        write_calibration(run, found.calibration)
        rows.setdefault("none", figures(estimates(found.before, resamples=resamples)))
        rows[method] = figures(estimates(found.after, resamples=resamples))
        if method == "temperature":
            evaluated = evaluate(run, None, calibrated=True)
            for name in evaluated.outcomes():
                value = perfect_error(evaluated, name)
                rows["none"][f"perfect_error_{name}"] = {"value": value, "low": value, "high": value}
    return rows


def mean(seeds: Sequence[dict[str, Figures]]) -> dict[str, Figures]:
    """Means of values and of interval ends."""
    return {
        row: {
            metric: {
                end: round(statistics.mean(one[row][metric][end] for one in seeds), 5)
                for end in ("value", "low", "high")
            }
            for metric in values
        }
        for row, values in seeds[0].items()
    }


def thinned(data: Path, out: Path) -> FeatureSchema:
    """Writes the log without most candidates that have no outcome, and returns the schema that declares it.

    Requests that lose all candidates are left out. The first and the last keep theirs, so the time line stays the same.
    """
    schema, generator = kuairand().schema, np.random.default_rng(0)
    names = [outcome.name for outcome in schema.outcomes]
    (out / "requests").mkdir(parents=True)
    kept_negatives, negatives = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    tables = {file: pq.read_table(file) for file in sorted((data / "requests").rglob("*.parquet"))}
    times = np.concatenate([table["timestamp_ms"].to_numpy() for table in tables.values()])
    for file, table in tables.items():
        lists = table["candidates"].combine_chunks()
        lengths_R = lists.value_lengths().to_numpy()
        request_N = np.repeat(np.arange(len(lists)), lengths_R)
        happened_NO = np.stack([lists.flatten().field(name).to_numpy() > 0 for name in names], axis=1)
        end_R = np.isin(table["timestamp_ms"].to_numpy(), [times.min(), times.max()])
        kept_N = happened_NO.any(1) | (generator.random(len(request_N)) < KEPT) | end_R[request_N]
        for o, name in enumerate(names):
            negatives[name] += int((~happened_NO[:, o]).sum())
            kept_negatives[name] += int((~happened_NO[kept_N, o]).sum())
        left_R = np.bincount(request_N[kept_N], minlength=len(lists))
        offsets = pa.array(np.concatenate([[0], np.cumsum(left_R)]).astype(np.int32))
        column = pa.ListArray.from_arrays(offsets, lists.flatten().filter(pa.array(kept_N)))
        table = table.set_column(table.column_names.index("candidates"), "candidates", column)
        pq.write_table(table.filter(pa.array(left_R > 0)), out / "requests" / file.name, row_group_size=4_096)
    outcomes = tuple(
        dataclasses.replace(outcome, negatives_kept=round(kept_negatives[outcome.name] / negatives[outcome.name], 4))
        for outcome in schema.outcomes
    )
    return dataclasses.replace(schema, outcomes=outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = args.data.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {
            recipe: [train(recipe, data, folder / f"{recipe}-{seed}", seed) for seed in range(args.seeds)]
            for recipe in dict.fromkeys((*args.recipes, "kuairand_main_only"))
        }
        later_rows = {recipe: mean([later(run, args.resamples) for run in runs[recipe]]) for recipe in args.recipes}

        declared = thinned(data, folder / "thinned")
        rows: list[dict[str, Figures]] = []
        for seed in range(args.seeds):
            found = {"whole log": runs["kuairand_main_only"][seed]}
            for row, schema in (("thinned, declared", declared), ("thinned, silent", kuairand().schema)):
                file = folder / f"{row}.toml"
                file.write_text(schema_to_toml(schema))
                options = ("--schema", str(file))
                found[row] = train("kuairand_main_only", folder / "thinned", folder / f"{row}-{seed}", seed, *options)
            rows.append(
                {
                    row: figures(estimates(evaluate(run, str(data), thinned=False).sums(), resamples=args.resamples))
                    for row, run in found.items()
                }
            )
    result: dict[str, Any] = {
        "benchmark": "calibration",
        "seeds": args.seeds,
        "resamples": args.resamples,
        "later": later_rows,
        "thinned": mean(rows),
        "kept_without_outcome": KEPT,
        "negatives_kept": {outcome.name: outcome.negatives_kept for outcome in declared.outcomes},
    }
    publish({**result, **hardware()}, args.out)


if __name__ == "__main__":
    main()
