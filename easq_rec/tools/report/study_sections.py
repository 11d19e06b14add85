"""The part of the page about a study: its question, its verdict, its plots, its tables, and how it was run."""

from __future__ import annotations

import math
from typing import Any

from easq_rec.run_directory.formatting import NONE, duration, estimate, metric, short
from easq_rec.tools.report.markup import Child, Markup, folded, join, table, tag
from easq_rec.tools.report.online_test import online_section
from easq_rec.tools.report.study_files import CheckRecord, StudyFiles, VerdictRecord, estimate_of
from easq_rec.tools.report.study_plots import change_bars, frontier, histories, knob_curves, lift_bars
from easq_rec.tools.studies.comparison import METRICS
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.publish import HEADINGS

SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?"}


def study_section(study: StudyFiles, anchor: str) -> Markup:
    """Everything that a study's results.json says. What it does not hold has no part."""
    return tag(
        "section",
        tag("h2", f"Study {study.study}", *_which(study), id=anchor),
        tag("p", study.question, class_="lead"),
        _failed(study),
        _verdict(study.verdict) if study.verdict else None,
        frontier(study),
        knob_curves(study),
        change_bars(study),
        lift_bars(study),
        # The courses of an online test are over days, and drawn with it.
        online_section(study.online) if study.online else histories(study),
        _rows(study),
        _lifts(study),
        _settings(study),
        join(tag("h3", "Notes"), tag("ul", *(tag("li", note) for note in study.notes))) if study.notes else None,
        _cells(study),
        tag("h3", "How it was run"),
        _circumstances(study),
    )


def _which(study: StudyFiles) -> list[Child]:
    return [] if study.name == study.study else [" ", tag("small", study.name)]


def _failed(study: StudyFiles) -> Markup | None:
    if not study.failed:
        return None
    told = f"{len(study.failed)} cells failed, so the figures are incomplete: {', '.join(study.failed)}."
    return tag("p", told, class_="remark")


def _verdict(verdict: VerdictRecord) -> Markup:
    rows: list[list[Child]] = [
        [check.what, _measured(check), f"claimed {check.wanted} {_amount(check)}", _outcome(check.outcome)]
        for check in verdict.checks
    ]
    checks = table(["check", "measured, 95% interval", "threshold", "outcome"], rows, caption="Checks of the verdict")
    return tag(
        "div",
        tag("p", _outcome(verdict.outcome), " ", verdict.claim, class_="claim"),
        tag("p", verdict.remark, class_="muted") if verdict.remark else None,
        checks,
        class_=f"verdict {_kind(verdict.outcome)}",
    )


def _outcome(outcome: str) -> Markup:
    return tag("span", f"{SIGNS.get(outcome, '')} {outcome}".strip(), class_=f"outcome {_kind(outcome)}")


def _kind(outcome: str) -> str:
    return outcome if outcome in SIGNS else "undecided"


def _measured(check: CheckRecord) -> str:
    return estimate(check.measured, _unit(check))


def _amount(check: CheckRecord) -> str:
    return f"{check.threshold:+g}{_unit(check)}"


def _unit(check: CheckRecord) -> str:
    return check.unit if check.unit in ("", "%") else f" {check.unit}"


def _rows(study: StudyFiles) -> Markup | None:
    if not study.rows:
        return None
    names = list(dict.fromkeys(name for row in study.rows for name in row.mean))
    counts = {row.worlds for row in study.rows}
    # A column only where it says something.
    headings: list[Child] = ["variant", *(["worlds"] if len(counts) > 1 else [])]
    for name in names:
        headings += [HEADINGS.get(name, name), "change"]
    rows: list[list[Child]] = []
    for row in study.rows:
        cells: list[Child] = [row.label, *([row.worlds] if len(counts) > 1 else [])]
        for name in names:
            change = row.change.get(name)
            cells += [metric(row.mean.get(name)), NONE if change is None else _change(estimate(change), change)]
        rows.append(cells)
    told = (
        f"Means over {_several(counts)}, and the change against {BASE} in percent, paired by world (by seed on a data "
        "set), with its 95% t interval; bold where that excludes 0."
    )
    return join(
        tag("h3", "All variants"), tag("p", told, class_="muted"), table(headings, rows, caption="All variants")
    )


def _several(counts: set[int]) -> str:
    count = max(counts)
    return "worlds" if len(counts) > 1 else f"{count} world{'' if count == 1 else 's'}"


def _change(text: str, found: Any) -> Child:
    return tag("b", text) if found.low > 0 or found.high < 0 else text


def _lifts(study: StudyFiles) -> Markup | None:
    if not study.lifts:
        return None
    rows: list[list[Child]] = [
        [
            lift.behaviour,
            f"{lift.average:.2%}",
            lift.answer,
            f"{lift.answers:,}",
            NONE if math.isnan(lift.rate) else f"{lift.rate:.2%}",
            _change(estimate(lift.change), lift.change),
        ]
        for lift in study.lifts
    ]
    headings: list[Child] = ["behaviour", "on average", "answer", "answers", "rate", "lift, 95% interval"]
    told = f"On average: among {study.lifts[0].over}. Bold where the interval excludes 0."
    return join(tag("h3", "All lifts"), tag("p", told, class_="muted"), table(headings, rows, caption="All lifts"))


def _settings(study: StudyFiles) -> Markup | None:
    if not study.settings:
        return None
    columns = list(dict.fromkeys(name for entry in study.settings for name in entry))
    rows: list[list[Child]] = [[_value(entry.get(name)) for name in columns] for entry in study.settings]
    headings: list[Child] = [name.replace("_", " ") for name in columns]
    return join(tag("h3", "Settings"), table(headings, rows, caption="Settings"))


def _value(value: Any) -> str:
    """A value of a table whose columns are not known beforehand."""
    if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
        return estimate(estimate_of(value), str(value.get("unit", "")))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NONE}[value]
    if isinstance(value, (int, float)):
        return short(value)
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value)


def _cells(study: StudyFiles) -> Markup | None:
    if not study.cells:
        return None
    headings: list[Child] = ["cell", "world", "training seed", "seconds", *(HEADINGS[name] for name in METRICS)]
    rows: list[list[Child]] = [
        [
            cell.label,
            _value(cell.world_seed),
            _value(cell.training_seed),
            short(round(cell.seconds, 1)) if math.isfinite(cell.seconds) else NONE,
            *(metric(cell.metrics.get(key)) for key in METRICS.values()),
        ]
        for cell in study.cells
    ]
    return folded(f"All {len(rows)} cells", table(headings, rows, caption="All cells"))


def _circumstances(study: StudyFiles) -> Markup:
    found = study.circumstances
    facts: list[tuple[str, Child]] = [("directory", str(study.directory))]
    if "command" in found:
        facts.append(("command", tag("code", str(found["command"]))))
    facts += [(name, str(found[name])) for name in ("budget",) if name in found]
    if isinstance(found.get("seeds"), list):
        facts.append(("seeds", ", ".join(map(str, found["seeds"]))))
    for name, told in (("wall_seconds", "time of the last call"), ("cell_seconds", "time of all cells together")):
        if isinstance(found.get(name), (int, float)):
            facts.append((told, duration(found[name])))
    for name in ("versions", "hardware"):
        if isinstance(found.get(name), dict):
            parts = (f"{key} {value}" for key, value in found[name].items() if value is not None)
            facts.append((name, ", ".join(parts)))
    pairs = (join(tag("dt", name), tag("dd", value)) for name, value in facts)
    return tag("dl", *pairs)
