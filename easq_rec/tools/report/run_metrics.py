"""Held-out metrics of runs side by side, with intervals where `easq-rec evaluate` was run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easq_rec import doctor
from easq_rec.run_directory.formatting import NONE, metric, signed
from easq_rec.run_directory.metrics_file import FINAL
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report.names import in_order, label
from easq_rec.tools.report.parts import PageTable, strong

if TYPE_CHECKING:
    from easq_rec.evaluation.metrics.intervals import Difference, Interval

RESAMPLES = 1_000
"""Resamples of the users; the default of `easq-rec compare`."""
MAIN = ("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc")


@dataclass(frozen=True, kw_only=True)
class PairedDifferences:
    """One run against the base."""

    title: str
    remark: str
    table: PageTable | None
    """None: they cannot be computed, and the remark says why."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The metrics of all runs."""

    evaluated: PageTable | None
    """Each run with the intervals that `easq-rec evaluate` stored; None where no run was evaluated."""
    base_remark: str
    """Why there are no paired differences at all; empty where there are some."""
    differences: list[PairedDifferences]
    missing: list[str]
    """Directories of runs without intervals."""
    logged_remarks: list[str]
    logged: PageTable | None
    """The newest metrics that the trainer logged."""


def held_out(runs: Sequence[RunFiles]) -> HeldOut:
    """All metrics. The first run is the base that the others are compared with."""
    base, *others = runs
    evaluated = [run for run in runs if run.evaluation is not None]
    compared = [run for run in others if run.evaluated] if base.evaluated else []
    base_remark = ""
    if evaluated and others and not base.evaluated:
        base_remark = f"{base.name}, the first of the runs, was not evaluated, so there are no paired differences."
    remarks, logged = _logged(runs)
    return HeldOut(
        evaluated=_evaluated(evaluated) if evaluated else None,
        base_remark=base_remark,
        differences=[_differences(run, base) for run in compared],
        missing=[str(run.directory) for run in runs if run.evaluation is None],
        logged_remarks=remarks,
        logged=logged,
    )


def _evaluated(runs: Sequence[RunFiles]) -> PageTable:
    found = [run.evaluation["metrics"] for run in runs if run.evaluation is not None]
    names = in_order(dict.fromkeys(name for entries in found for name in entries))
    rows = [[label(name), *(_with_interval(entries.get(name)) for entries in found)] for name in names]
    headings = ["metric", *(run.name for run in runs)]
    return PageTable(caption="Held-out metrics with intervals", headings=headings, rows=rows)


def _with_interval(entry: Any) -> str:
    if not isinstance(entry, dict) or entry.get("value") is None:
        return NONE
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    return metric(value) + ("" if low is None or high is None else f" [{metric(low)}, {metric(high)}]")


def _differences(run: RunFiles, base: RunFiles) -> PairedDifferences:
    title = f"{run.name} against {base.name}"
    doctor.require_compatible()
    # Imported here: it takes seconds, and most reports do without.
    from easq_rec.evaluation import compare as comparison

    try:
        ours, theirs, found = comparison.compare(run.directory, base.directory, resamples=RESAMPLES, seed=0)
    except ValueError as error:
        return PairedDifferences(title=title, remark=f"There are no paired differences: {error}.", table=None)
    remark = (
        f"Paired under the same {RESAMPLES:,} resamples of {ours.counts()['users']:,} users, 95% intervals; {run.name} "
        f"is ranked by {ours.origin.served}, {base.name} by {theirs.origin.served}."
    )
    rows = [_difference(name, found[name]) for name in in_order(found)]
    headings = ["metric", run.name, base.name, "difference", "relative"]
    table = PageTable(caption=f"{title}, paired differences", headings=headings, rows=rows)
    return PairedDifferences(title=title, remark=remark, table=table)


def _difference(name: str, found: Difference) -> list[str]:
    # A gap is close to 0, so its relative change says nothing.
    relative = NONE if name == "calibration_gap" else _change(found.relative, scale=100, digits=2, unit="%")
    return [label(name), metric(found.run), metric(found.base), _change(found.difference), relative]


def _change(found: Interval, *, scale: float = 1, digits: int = 4, unit: str = "") -> str:
    """A difference with its interval; bold where that excludes 0."""
    if math.isnan(found.value):
        return NONE
    value = f"{signed(scale * found.value, digits)}{unit}"
    if math.isnan(found.low):
        return f"{value} (no interval)"
    text = f"{value} [{signed(scale * found.low, digits)}, {signed(scale * found.high, digits)}]"
    return strong(text) if found.low > 0 or found.high < 0 else text


def _logged(runs: Sequence[RunFiles]) -> tuple[list[str], PageTable | None]:
    """(remarks, table) of the newest held-out metrics of each run."""
    records = {run.name: record for run in runs if (record := run.final) is not None}
    if not records:
        return ["No run has held-out metrics yet: none has finished, or they hold out no requests."], None
    remarks = []
    if early := [f"{name} at step {record.step:,}" for name, record in records.items() if record.split != FINAL]:
        remarks.append(f"Not from the end of training: {', '.join(early)}.")
    if none := [run.name for run in runs if run.name not in records]:
        remarks.append(f"None yet: {', '.join(none)}.")
    values = {name: record.values for name, record in records.items()}
    names = list(dict.fromkeys(name for record in values.values() for name in record))
    known = in_order(names)
    ordered = [*known, *(name for name in names if name not in known)]
    first, *others = values
    headings = ["metric", first]
    for name in others:
        headings += [name, f"less {first}"]
    rows = [_logged_row(name, values) for name in ordered]
    return remarks, PageTable(caption="Logged metrics", headings=headings, rows=rows)


def _logged_row(name: str, values: Mapping[str, Mapping[str, float]]) -> list[str]:
    first, *others = (entries.get(name) for entries in values.values())
    row = [strong(label(name)) if name in MAIN else label(name), metric(first)]
    for value in others:
        if first is None or value is None:
            row += [metric(value), NONE]
        else:
            counts = first.is_integer() and value.is_integer() and abs(first) > 1
            row += [metric(value), signed(value - first, 0 if counts else 4)]
    return row
