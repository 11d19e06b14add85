"""What came out of runs: held-out metrics side by side, with intervals where `easq-rec evaluate` has been."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from easq_rec import doctor
from easq_rec.run_directory.formatting import NONE, metric, signed
from easq_rec.run_directory.metrics_file import FINAL
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report.markup import Child, Markup, folded, join, table, tag
from easq_rec.tools.report.names import HELD_OUT, label

if TYPE_CHECKING:
    from easq_rec.evaluation.metrics.intervals import Difference, Interval

RESAMPLES = 1_000
"""Of the users, as `easq-rec compare` takes by default."""
MAIN = ("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc")


def metrics(runs: Sequence[RunFiles]) -> Markup:
    """Tables of the metrics: with intervals as far as the runs were evaluated, and as they were logged."""
    logged = _logged(runs)
    missing = [run for run in runs if run.evaluation is None]
    if len(missing) == len(runs):
        return join(_no_intervals(runs), logged)
    remark = _no_intervals(missing) if missing else None
    return join(_evaluated(runs), *_compared(runs), remark, folded("All metrics as the trainer logged them", logged))


def _no_intervals(runs: Sequence[RunFiles]) -> Markup:
    """How to get them."""
    commands = join(*(tag("li", tag("code", f"easq-rec evaluate --run {run.directory}")) for run in runs))
    one = "This run has" if len(runs) == 1 else "These runs have"
    told = f"{one} no intervals: single values do not say what is chance. Evaluate, and write the report again:"
    return tag("div", tag("p", told), tag("ul", commands), class_="remark")


def _evaluated(runs: Sequence[RunFiles]) -> Markup:
    """Each run with its own intervals, as `easq-rec evaluate` has stored them."""
    found = [(run, run.evaluation["metrics"]) for run in runs if run.evaluation is not None]
    names = [name for name in HELD_OUT if any(name in entries for _, entries in found)]
    rows: list[list[Child]] = [
        [label(name), *(_with_interval(entries.get(name)) for _, entries in found)] for name in names
    ]
    told = "Value, and 95% interval over users."
    return join(
        tag("p", told, class_="muted"),
        table(["metric", *(run.name for run, _ in found)], rows, caption="Held-out metrics with intervals"),
    )


def _with_interval(entry: Any) -> str:
    if not isinstance(entry, dict) or entry.get("value") is None:
        return NONE
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    return metric(value) + ("" if low is None or high is None else f" [{metric(low)}, {metric(high)}]")


def _compared(runs: Sequence[RunFiles]) -> list[Markup]:
    """Paired differences of every evaluated run to the first, which is the base."""
    base, *others = runs
    if not others:
        return []
    if not base.evaluated:
        return [tag("p", f"{base.name}, the first of the runs, was not evaluated, so there are no paired differences.")]
    parts = []
    for run in others:
        if run.evaluated:
            parts.append(tag("h4", f"{run.name} against {base.name}"))
            try:
                parts.append(_differences(run, base))
            except ValueError as error:
                parts.append(tag("p", f"There are no paired differences: {error}.", class_="remark"))
    return parts


def _differences(run: RunFiles, base: RunFiles) -> Markup:
    doctor.require_compatible()
    # Imported here: it takes seconds, and most reports need none of it.
    from easq_rec.evaluation import compare as comparison

    ours, theirs, found = comparison.compare(run.directory, base.directory, resamples=RESAMPLES, seed=0)
    served = f"{run.name} is ranked by {ours.origin.served}, {base.name} by {theirs.origin.served}"
    told = (
        f"Paired under the same {RESAMPLES:,} resamples of {ours.counts()['users']:,} users, 95% intervals; {served}."
    )
    rows: list[list[Child]] = [_difference(name, found[name]) for name in HELD_OUT if name in found]
    headings: list[Child] = ["metric", run.name, base.name, "difference", "relative"]
    return join(
        tag("p", told, class_="muted"),
        table(headings, rows, caption=f"{run.name} against {base.name}, paired differences"),
    )


def _difference(name: str, found: Difference) -> list[Child]:
    # A gap near 0 has no relative change worth the name.
    relative = NONE if name == "calibration_gap" else _change(found.relative, scale=100, digits=2, unit="%")
    return [label(name), metric(found.run), metric(found.base), _change(found.difference), relative]


def _change(found: Interval, *, scale: float = 1, digits: int = 4, unit: str = "") -> Child:
    """A difference with its interval; bold where that excludes 0."""
    if math.isnan(found.value):
        return NONE
    value = f"{signed(scale * found.value, digits)}{unit}"
    if math.isnan(found.low):
        return f"{value} (no interval)"
    text = f"{value} [{signed(scale * found.low, digits)}, {signed(scale * found.high, digits)}]"
    return tag("b", text) if found.low > 0 or found.high < 0 else text


def _logged(runs: Sequence[RunFiles]) -> Markup:
    """The newest held-out metrics of each run."""
    found = [(run, run.final) for run in runs]
    there = [(run, record) for run, record in found if record is not None]
    if not there:
        return tag("p", "No run was evaluated on held-out requests: they have not come to their end, or hold none out.")
    values = {run.name: record.values for run, record in there}
    names = list(dict.fromkeys(name for record in values.values() for name in record))
    ordered = [*(name for name in HELD_OUT if name in names), *(name for name in names if name not in HELD_OUT)]
    first, *others = values
    headings: list[Child] = ["metric", first]
    for name in others:
        headings += [name, f"less {first}"]
    rows = [_logged_row(name, values) for name in ordered]
    early = [f"{run.name} at step {record.step:,}" for run, record in there if record.split != FINAL]
    none = [run.name for run, record in found if record is None]
    remarks = [f"Not of the end: {', '.join(early)}."] * bool(early) + [f"None yet: {', '.join(none)}."] * bool(none)
    return join(*(tag("p", text, class_="muted") for text in remarks), table(headings, rows, caption="Logged metrics"))


def _logged_row(name: str, values: Mapping[str, Mapping[str, float]]) -> list[Child]:
    first, *others = (entries.get(name) for entries in values.values())
    row: list[Child] = [tag("b", label(name)) if name in MAIN else label(name), metric(first)]
    for value in others:
        whole = first is not None and value is not None and first == int(first) and value == int(value)
        difference = None if first is None or value is None else value - first
        row += [metric(value), signed(difference, 0 if whole and abs(first or 0) > 1 else 4)]
    return row
