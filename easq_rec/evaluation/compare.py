"""Compares two evaluations of the same held-out requests, metric by metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.evaluation.metrics.intervals import CONFIDENCE, Difference, Interval, differences
from easq_rec.evaluation.results import LABELS, Evaluated, format_interval, label, metric_names, read

OF_THE_DATA = ("request_id", "user_id", "candidates", "pairs", "engagement_pairs", "answer")
"""Columns that depend only on the data: two evaluations of the same requests agree in them."""


def compare(run: Path, base: Path, *, resamples: int, seed: int) -> tuple[Evaluated, Evaluated, dict[str, Difference]]:
    """Reads both evaluations and computes each metric's difference and interval, from the same resampled users.

    Raises:
        UserError: an evaluation is missing, or the two are of different requests.
    """
    ours, theirs = (_by_request(read(source)) for source in (run, base))
    _check_same_requests(run, base, ours.table, theirs.table)
    return ours, theirs, differences(ours.sums(), theirs.sums(), resamples=resamples, seed=seed)


def print_comparison(ours: Evaluated, theirs: Evaluated, found: Mapping[str, Difference]) -> None:
    """Prints both values and their difference, absolute and relative to the base."""
    counts = ours.counts()
    print(
        f"{counts['requests']:,} held-out requests of {counts['users']:,} users; {CONFIDENCE:.0%} intervals over users"
    )
    for who, evaluated in (("run", ours), ("base", theirs)):
        print(
            f"  {who:<5}{evaluated.origin.recipe}, step {evaluated.origin.step:,}, ranked by {evaluated.origin.served}"
        )
    names = metric_names(found)
    width = max(26, *(len(label(name)) + 2 for name in names))
    print(f"\n  {'':<{width}}{'run':>8}{'base':>8}   {'difference':<30}relative to base")
    for name in names:
        entry = found[name]
        values = "".join(
            f"{'-' if math.isnan(value) else format(value, '.4f'):>8}" for value in (entry.run, entry.base)
        )
        # The relative change of a gap near 0 is meaningless.
        relative = "" if name == "calibration_gap" else format_interval(entry.relative, sign=True, percent=True)
        print(f"  {label(name):<{width}}{values}   {format_interval(entry.difference, sign=True)}  {relative}".rstrip())


def print_calibrated(found: Mapping[str, Difference]) -> None:
    """Prints the metrics of the predicted outcomes without and with maps, and their difference.

    Args:
        found: with maps (the run) against without (the base).
    """
    names = [name for name in metric_names(found) if name not in LABELS]
    width = max(26, *(len(label(name)) + 2 for name in names))
    print(f"\n  {'':<{width}}{'before':>8}{'after':>8}   difference")
    for name in names:
        entry = found[name]
        values = "".join(
            f"{'-' if math.isnan(value) else format(value, '.4f'):>8}" for value in (entry.base, entry.run)
        )
        print(f"  {label(name):<{width}}{values}   {format_interval(entry.difference, sign=True)}".rstrip())


def write_comparison(ours: Evaluated, theirs: Evaluated, found: Mapping[str, Difference], out: Path) -> None:
    """Writes all values as JSON; undefined values are null."""
    content = {
        "run": dataclasses.asdict(ours.origin),
        "base": dataclasses.asdict(theirs.origin),
        **ours.counts(),
        "confidence": CONFIDENCE,
        "metrics": {
            name: {
                "run": _plain(found[name].run),
                "base": _plain(found[name].base),
                "difference": _entry(found[name].difference),
                "relative": _entry(found[name].relative),
            }
            for name in metric_names(found)
        },
    }
    json_file.write(out, content)


def _by_request(evaluated: Evaluated) -> Evaluated:
    """The evaluation sorted by request id: the order of the files may differ between two runs."""
    order = pc.sort_indices(evaluated.table, [("request_id", "ascending"), ("user_id", "ascending")])
    return dataclasses.replace(evaluated, table=evaluated.table.take(order))


def _check_same_requests(run: Path, base: Path, ours: pa.Table, theirs: pa.Table) -> None:
    mine, other = (np.unique(table["request_id"].to_numpy()) for table in (ours, theirs))
    shared = len(np.intersect1d(mine, other, assume_unique=True))
    problem = ""
    if shared < max(len(mine), len(other)) or len(ours) != len(theirs):
        problem = (
            f"have different requests: {shared:,} in both, {len(mine) - shared:,} only in the first, "
            f"{len(other) - shared:,} only in the second"
        )
    else:
        differing = [name for name in OF_THE_DATA if not ours[name].equals(theirs[name])]
        if differing:
            problem = f"have requests of the same ids that differ in {', '.join(differing)}"
    if problem:
        raise UserError(
            f"the evaluations of {run} and {base} {problem}: evaluate both on the same held-out requests "
            "(`easq-rec evaluate --run RUN --data DIR`, and the same data.holdout)"
        )


def _entry(found: Interval) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in dataclasses.asdict(found).items()}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
