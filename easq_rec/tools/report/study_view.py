"""What a page says about a study: its plots and its tables."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, duration, estimate, metric, short
from easq_rec.tools.figures.lines import Line, Point
from easq_rec.tools.report.names import label
from easq_rec.tools.report.parts import Legend, PagePlot, PageTable, PlotGroup, change, code
from easq_rec.tools.report.plots import bar_plot, frontier_plot, line_legend, line_plot
from easq_rec.tools.report.price_view import map_group, map_tables, price_plots, price_tables
from easq_rec.tools.report.robustness_view import robustness_plots, robustness_tables
from easq_rec.tools.report.study_files import CellRecord, OnlineTest, StudyFiles, estimate_of
from easq_rec.tools.report.worth_view import information_bars, learning_curve
from easq_rec.tools.report.worth_view import tables as worth_tables
from easq_rec.tools.studies import experts_rank as sizes
from easq_rec.tools.studies.comparison import METRICS, Row
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.plots import CHANGE, GAINED, PAID, changes, changes_over_x, families, places, styles
from easq_rec.tools.studies.publish import HEADINGS
from easq_rec.tools.studies.verdict import Verdict

KNOBS = {
    "lambda2": "weight of L_DPO (lambda2)",
    "sparsity": "answers per triggered impression",
    "rank": "rank r of the adapters",
    "experts": "experts",
}
"""The setting that a study varies, by the name of those studies whose series all vary the same one."""
LOGARITHMIC_FROM = 8.0
"""The axis of a setting is logarithmic where its largest value is more than this many times its smallest."""
MARGINS = ("answers_train_margin", "answers_holdout_margin")
GAP = "DPO margin, trained less held-out answers"
SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?"}


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """The parts in the order of the page. A part that the study has no data for is None or empty."""

    files: StudyFiles
    sign: str
    checks: PageTable | None
    plots: list[PagePlot]
    """Frontier, and bars of changes or lifts."""
    curves: PlotGroup | None
    online: list[tuple[str, PageTable]]
    """(remark, table) of an online test."""
    courses: PlotGroup | None
    tables: list[tuple[str, str, PageTable]]
    """(heading, remark, table)."""
    cells: PageTable | None
    facts: list[tuple[str, str]]
    """How it was run."""


def study_view(study: StudyFiles) -> StudyView:
    """Everything that a study's results.json contains."""
    return StudyView(
        files=study,
        sign=SIGNS[study.verdict.outcome] if study.verdict else "",
        checks=_checks(study.verdict) if study.verdict and study.verdict.checks else None,
        plots=[plot for plot in _plots(study) if plot],
        curves=_group_of_curves(study),
        online=_online(study.online) if study.online else [],
        # The courses of an online test are over days, not over steps.
        courses=_days(study.online) if study.online else _histories(study),
        tables=[
            *price_tables(study.prices),
            *(map_tables(study.places) if study.places else []),
            *(robustness_tables(study.robustness) if study.robustness else []),
            *(found for found in (_rows(study.rows), _lifts(study), _settings(study)) if found),
            *(worth_tables(study.worth) if study.worth else []),
        ],
        cells=_cells(study.cells) if study.cells else None,
        facts=_facts(study),
    )


def _plots(study: StudyFiles) -> list[PagePlot | None]:
    if study.prices:
        return [*price_plots(study.prices)]
    if study.places:
        # Rows of many worlds side by side say nothing.
        return []
    if study.robustness:
        return [*robustness_plots(study.robustness)]
    bars = information_bars(study.worth) if study.worth else None
    return [_frontier(study.rows), _change_bars(study.rows), _lift_bars(study), bars]


def _group_of_curves(study: StudyFiles) -> PlotGroup | None:
    if study.worth:
        return learning_curve(study.worth)
    return map_group(study.places) if study.places else _curves(study)


def _checks(verdict: Verdict) -> PageTable:
    rows = [
        [
            check.what,
            estimate(check.measured, check.unit),
            f"claimed {check.wanted} {check.threshold:+g}{check.unit}",
            f"{SIGNS[check.outcome]} {check.outcome}",
        ]
        for check in verdict.checks
    ]
    headings = ["check", "measured, 95% interval", "threshold", "outcome"]
    return PageTable(caption="Checks of the verdict", headings=headings, rows=rows)


def _frontier(rows: Sequence[Row]) -> PagePlot | None:
    found = families(rows)
    if not found:
        return None
    return frontier_plot(
        found,
        title=f"Satisfaction against engagement, change against {BASE} in %",
        xlabel=f"{HEADINGS[PAID]}, {CHANGE}",
        ylabel=f"{HEADINGS[GAINED]}, {CHANGE}",
        origin=BASE,
    )


def _change_bars(rows: Sequence[Row]) -> PagePlot | None:
    labels, groups = changes(rows)
    return bar_plot(f"Change against {BASE} in %", labels, groups, xlabel=CHANGE) if labels else None


def _lift_bars(study: StudyFiles) -> PagePlot | None:
    """Dashed lines are the thresholds of the verdict."""
    if not study.lifts:
        return None
    names = list(dict.fromkeys(lift.behaviour for lift in study.lifts))
    by_place = {(lift.behaviour, lift.answer): lift.change for lift in study.lifts}
    unknown = Estimate(value=math.nan, low=-math.inf, high=math.inf, count=0)
    groups = {
        f"after {answer}": [by_place.get((name, answer), unknown) for name in names]
        for answer in dict.fromkeys(lift.answer for lift in study.lifts)
    }
    marks = sorted({check.threshold for check in study.verdict.checks}) if study.verdict else []
    return bar_plot(f"Lift against {study.lifts[0].over} in %", names, groups, xlabel="lift in %", marks=marks)


def _curves(study: StudyFiles) -> PlotGroup | None:
    """Satisfaction and engagement over the setting that the study varies."""
    knob = KNOBS.get(study.study)
    panels = changes_over_x(_points_of_curves(study))
    ticks = places(panels)
    if knob is None or not ticks:
        return None
    logarithmic = ticks[0] > 0 and ticks[-1] / ticks[0] > LOGARITHMIC_FROM
    plots = [
        line_plot(f"{title}, {CHANGE}", lines, xlabel=knob, ticks=ticks, logarithmic=logarithmic)
        for title, lines in panels.items()
    ]
    legend = line_legend({line.name: line.style for lines in panels.values() for line in lines})
    return _group(f"Over the {knob}", [], legend, plots)


def _points_of_curves(study: StudyFiles) -> list[Row]:
    if study.study != sizes.EXPERTS.name:
        return study.rows
    # The default is a point of both curves, and its row has the name of one.
    default = f"K1={sizes.K1} K2={sizes.K2}"
    copies = [
        dataclasses.replace(row, series=sizes.BY_MAIN, x=float(sizes.K1)) for row in study.rows if row.label == default
    ]
    return [*copies, *study.rows]


def _histories(study: StudyFiles) -> PlotGroup | None:
    """Courses of the cells over training: the mean over worlds, and each world faintly behind it."""
    all_styles = styles([row.series or row.label for row in study.rows] + [cell.label for cell in study.cells])
    style_of = {cell.label: all_styles[cell.label] for cell in study.cells if any(cell.history.values())}
    names = list(dict.fromkeys(name for cell in study.cells for name in cell.history))
    quantities = {name: label(name) for name in names} | ({"": GAP} if set(MARGINS) <= set(names) else {})
    checks = study.verdict.checks if study.verdict else []
    allowed = next((check.threshold for check in checks if check.unit.strip() == "nats"), None)
    plots = []
    for name, title in quantities.items():
        lines = []
        for of, style in style_of.items():
            courses = [found for cell in study.cells if cell.label == of and (found := _course(cell, name))]
            faint = courses if len(courses) > 1 else ()
            lines.append(Line(name=of, style=style, points=mean_course(courses), faint=faint))
        plots.append(line_plot(title, lines, mark=allowed if name == "divergence" else None))
    remark = "Mean over the cells of a variant; faint: each of them."
    if allowed is not None:
        remark += " The dashed line is what the claim allows."
    return _group("Over training", [remark], line_legend(style_of), plots)


def _course(cell: CellRecord, name: str) -> list[Point]:
    if name:
        return cell.history.get(name, [])
    trained, held_out = (dict(cell.history.get(margin, [])) for margin in MARGINS)
    return [(step, value - held_out[step]) for step, value in trained.items() if step in held_out]


def mean_course(courses: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of courses, at the places that all of them have."""
    values: defaultdict[float, list[float]] = defaultdict(list)
    for course in courses:
        for x, y in course:
            values[x].append(y)
    return [(x, math.fsum(found) / len(found)) for x, found in sorted(values.items()) if len(found) == len(courses)]


def _days(test: OnlineTest) -> PlotGroup | None:
    plots = []
    for name in dict.fromkeys(name for metrics in test.days.values() for name in metrics):
        lines = [
            Line(
                name=arm,
                style=style,
                points=[
                    (float(day), value) for day, value in enumerate(metrics.get(name, []), 1) if math.isfinite(value)
                ],
            )
            for style, (arm, metrics) in enumerate(test.days.items())
        ]
        plots.append(line_plot(label(name), lines, xlabel="day"))
    return _group("", [], line_legend({arm: style for style, arm in enumerate(test.days)}), plots)


def _group(title: str, remarks: list[str], legend: Legend, plots: Sequence[PagePlot | None]) -> PlotGroup | None:
    drawn = [plot for plot in plots if plot is not None]
    return PlotGroup(title=title, remarks=remarks, legend=legend, plots=drawn) if drawn else None


def _online(test: OnlineTest) -> list[tuple[str, PageTable]]:
    found = []
    if test.differences:
        rows = [
            [
                entry.arm,
                entry.against,
                label(entry.metric),
                change(entry.change),
                f"{entry.change.count:,} {entry.unit}".strip(),
            ]
            for entry in test.differences
        ]
        headings = ["arm", "against", "metric", "difference", "measured on"]
        caption = "Differences between the arms"
        table = PageTable(caption=caption, headings=headings, rows=rows, numeric_from=3)
        found.append(("Differences in percent with 95% intervals; bold where the interval excludes 0.", table))
    names = list(dict.fromkeys(name for means in test.arms.values() for name in means))
    if names:
        rows = [[arm, *(metric(means.get(name)) for name in names)] for arm, means in test.arms.items()]
        headings = ["arm", *(label(name) for name in names)]
        found.append(("", PageTable(caption="Means of the arms", headings=headings, rows=rows)))
    return found


def _rows(rows: Sequence[Row]) -> tuple[str, str, PageTable] | None:
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row.mean))
    counts = [max((found.count for found in row.change.values()), default=0) for row in rows]
    several = len(set(counts)) > 1
    headings = ["variant", *(["worlds"] if several else [])]
    for name in names:
        headings += [HEADINGS.get(name, name), "change"]
    lines = []
    for row, count in zip(rows, counts, strict=True):
        cells = [row.label, *([str(count)] if several else [])]
        for name in names:
            cells += [metric(row.mean.get(name)), change(row.change.get(name))]
        lines.append(cells)
    worlds = "worlds" if several else f"{counts[0]} world{'' if counts[0] == 1 else 's'}"
    remark = (
        f"Means over {worlds}, and the change against {BASE} in percent, paired by world (by seed on a data set), with "
        "its 95% t interval; bold where that excludes 0."
    )
    return "All variants", remark, PageTable(caption="All variants", headings=headings, rows=lines)


def _lifts(study: StudyFiles) -> tuple[str, str, PageTable] | None:
    if not study.lifts:
        return None
    rows = [
        [
            lift.behaviour,
            f"{lift.average:.2%}",
            lift.answer,
            f"{lift.answers:,}",
            NONE if math.isnan(lift.rate) else f"{lift.rate:.2%}",
            change(lift.change),
        ]
        for lift in study.lifts
    ]
    headings = ["behaviour", "on average", "answer", "answers", "rate", "lift, 95% interval"]
    remark = f"On average: among {study.lifts[0].over}. Bold where the interval excludes 0."
    return "All lifts", remark, PageTable(caption="All lifts", headings=headings, rows=rows)


def _settings(study: StudyFiles) -> tuple[str, str, PageTable] | None:
    if not study.settings:
        return None
    columns = list(dict.fromkeys(name for entry in study.settings for name in entry))
    rows = [[_value(entry.get(name)) for name in columns] for entry in study.settings]
    headings = [name.replace("_", " ") for name in columns]
    return "Settings", "", PageTable(caption="Settings", headings=headings, rows=rows)


def _value(value: Any) -> str:
    """A value of a table whose columns are not known beforehand."""
    match value:
        case {"value": _, "low": _, "high": _}:
            return estimate(estimate_of(value), str(value.get("unit", "")))
        case None:
            return NONE
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return short(value)
        case list():
            return ", ".join(map(_value, value))
        case _:
            return str(value)


def _cells(cells: Sequence[CellRecord]) -> PageTable:
    rows = [
        [
            cell.label,
            _value(cell.world_seed),
            _value(cell.training_seed),
            short(round(cell.seconds, 1)) if math.isfinite(cell.seconds) else NONE,
            *(metric(cell.metrics.get(key)) for key in METRICS.values()),
        ]
        for cell in cells
    ]
    headings = ["cell", "world", "training seed", "seconds", *(HEADINGS[name] for name in METRICS)]
    return PageTable(caption="All cells", headings=headings, rows=rows)


def _facts(study: StudyFiles) -> list[tuple[str, str]]:
    facts = [("directory", str(study.directory))]
    for name, value in study.circumstances.items():
        match name, value:
            case "command", _:
                facts.append((name, code(str(value))))
            case "wall_seconds", int() | float():
                facts.append(("time of the last call", duration(value)))
            case "cell_seconds", int() | float():
                facts.append(("time of all cells together", duration(value)))
            case _, Mapping():
                facts.append((name, ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)))
            case _:
                facts.append((name, _value(value)))
    return facts
