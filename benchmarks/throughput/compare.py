"""Is B faster than A? Two results of `run`, shape by shape, with an interval of the ratio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

METRICS = {"impressions_per_s": "impressions/s", "impressions_per_cpu_s": "impressions per CPU second"}
RESAMPLES = 10_000
LEVEL = 0.95


def compare(a: Path, b: Path) -> Iterator[str]:
    """Lines of a table: each shape and pipeline that both results have.

    Raises:
        ValueError: a file is not a result of a run, or the two have nothing in common.
    """
    one, two = load(a), load(b)
    for name in ("workload", "requests"):
        if one[name] != two[name]:
            yield f"note: {name} differs, {one[name]} in A and {two[name]} in B"
    for name in ("cpu", "gpu", "torch", "torchrec", "fbgemm-gpu-cpu", "python"):
        if one["where"].get(name) != two["where"].get(name):
            yield f"note: {name} differs, {one['where'].get(name)} in A and {two['where'].get(name)} in B"
    others = {run["name"]: run for run in two["runs"]}
    pairs = [
        (run, others[run["name"]], pipeline)
        for run in one["runs"]
        if run["name"] in others
        for pipeline in run["launches"][0]["windows"]
        if pipeline in others[run["name"]]["launches"][0]["windows"]
    ]
    if not pairs:
        raise ValueError(f"{a} and {b} have no shape and pipeline in common")
    yield f"{'':<44}{'A':>10}{'B':>10}{'B/A':>8}  {'95% interval':<16}"
    for metric, label in METRICS.items():
        yield label
        for run, other, pipeline in pairs:
            ratio, low, high = interval(_launches(run, pipeline, metric), _launches(other, pipeline, metric))
            verdict = "B is faster" if low > 1 else "B is slower" if high < 1 else "no difference shown"
            medians = [float(np.median(np.concatenate(_launches(part, pipeline, metric)))) for part in (run, other)]
            yield (
                f"  {run['name'] + ', ' + pipeline:<42}{medians[0]:>10,.0f}{medians[1]:>10,.0f}{ratio:>8.3f}  "
                f"[{low:.3f}, {high:.3f}]  {verdict}"
            )
    fewest = min(len(part["launches"]) for run, other, _ in pairs for part in (run, other))
    if fewest < 3:
        yield (
            f"note: {fewest} launch{'es' if fewest > 1 else ''} of a shape; windows of one process are alike, so these "
            "intervals are too narrow. --rounds 3 or more tells"
        )


def interval(
    a: list[np.ndarray], b: list[np.ndarray], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """(ratio of the medians, B over A, and the ends of its bootstrap interval).

    Args:
        a: per launch the rates of its windows. Launches are drawn first, then windows of each, so that the variation
            between processes is included.
    """
    rng = np.random.default_rng(seed)
    drawn_a, drawn_b = (_medians(launches, rng, resamples) for launches in (a, b))
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(drawn_b / drawn_a, [edge, 1 - edge])
    return float(np.median(np.concatenate(b)) / np.median(np.concatenate(a))), float(low), float(high)


def _medians(launches: list[np.ndarray], rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Medians of resampled launches with resampled windows."""
    count, windows = len(launches), min(len(launch) for launch in launches)
    values = np.stack([launch[:windows] for launch in launches])
    chosen = rng.integers(0, count, (resamples, count))
    window = rng.integers(0, windows, (resamples, count, windows))
    return np.median(values[chosen[:, :, None], window].reshape(resamples, -1), axis=1)


def _launches(run: dict[str, Any], pipeline: str, metric: str) -> list[np.ndarray]:
    return [np.array([window[metric] for window in launch["windows"][pipeline]]) for launch in run["launches"]]


def load(path: Path) -> dict[str, Any]:
    """Reads a result of `run`. Raises ValueError if the file is not one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        known = found.get("benchmark") == "throughput"
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a result of `python -m benchmarks.throughput run`: {error}") from error
    if not known:
        raise ValueError(f"{path} is not a result of `python -m benchmarks.throughput run --out`")
    return found
