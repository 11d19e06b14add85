"""The plots of a study: frontier, bars, curves over a knob, courses of training, lifts."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import estimate
from easq_rec.tools.report.bars import bar_chart
from easq_rec.tools.report.frame import Size, both, figure
from easq_rec.tools.report.lines import Line
from easq_rec.tools.report.marks import bar_legend, legend
from easq_rec.tools.report.markup import Child, Markup, folded, join, table, tag
from easq_rec.tools.report.names import label
from easq_rec.tools.report.panels import panel, panels
from easq_rec.tools.report.scales import Point
from easq_rec.tools.report.scatter import Family, Spot, scatter
from easq_rec.tools.report.study_files import CellRecord, RowRecord, StudyFiles
from easq_rec.tools.studies import experts_rank as sizes
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.publish import HEADINGS

GAINED, PAID = "satisfaction", "engagement"
KNOBS = {
    "lambda2": "weight of L_DPO (lambda2)",
    "sparsity": "answers per triggered impression",
    "rank": "rank r of the adapters",
    "experts": "experts",
}
"""The knob of those studies whose series share one. In others each series has its own, so they have one axis less in
common, and the frontier alone shows them."""
LOGARITHMIC_FROM = 8.0
"""The axis of a knob is logarithmic where its largest value is more than so many times its smallest."""
MARGINS = ("answers_train_margin", "answers_holdout_margin")
CUT = "Bars are 95% intervals; one that leaves the plot is cut."
GAP = "DPO margin, trained less held-out answers"


def styles(study: StudyFiles) -> dict[str, int]:
    """The style of every series, or label where there is none, the same in all plots of a study; the base is last,
    because some plots leave it out."""
    names = [row.series or row.label for row in study.rows] + [cell.label for cell in study.cells]
    return {name: style for style, name in enumerate([*(n for n in dict.fromkeys(names) if n != BASE), BASE])}


def frontier(study: StudyFiles) -> Markup:
    """Satisfaction gained against engagement paid, a family per series; nothing where rows have no such changes."""
    rows = _moved(study.rows)
    families: dict[str, list[RowRecord]] = {}
    for row in rows:
        families.setdefault(row.series or row.label, []).append(row)
    if not families:
        return Markup("")
    style_of = styles(study)
    drawn = [
        Family(
            name=name,
            style=style_of[name],
            spots=[_spot(row) for row in sorted(found, key=lambda row: row.x or 0.0)],
        )
        for name, found in families.items()
    ]
    title = f"Satisfaction against engagement, change against {BASE} in %"

    def draw(size: Size) -> Markup:
        return scatter(
            title,
            drawn,
            size,
            xlabel=f"{HEADINGS[PAID]}, change in %",
            ylabel=f"{HEADINGS[GAINED]}, change in %",
            origin=BASE,
        )

    return figure(
        title,
        both(draw),
        legend=legend({family.name: family.style for family in drawn}),
        data=tag("p", CUT + " The table below has all figures.", class_="muted"),
    )


def _spot(row: RowRecord) -> Spot:
    note = f"{row.x:g}" if row.series and row.x is not None else row.label
    return Spot(name=row.label, x=row.change[PAID], y=row.change[GAINED], note=note)


def change_bars(study: StudyFiles) -> Markup:
    """Satisfaction and engagement of every row, one bar each; nothing where there is no row but the base."""
    rows = _moved(study.rows)
    if not rows:
        return Markup("")
    groups = {HEADINGS[name]: [row.change[name] for row in rows] for name in (GAINED, PAID)}
    return _bars(f"Change against {BASE} in %", [row.label for row in rows], groups, xlabel="change in %")


def lift_bars(study: StudyFiles) -> Markup:
    """How much more frequent behaviours are after an answer; dashed lines are the thresholds of the verdict."""
    if not study.lifts:
        return Markup("")
    names = list(dict.fromkeys(lift.behaviour for lift in study.lifts))
    answers = list(dict.fromkeys(lift.answer for lift in study.lifts))
    by_place = {(lift.behaviour, lift.answer): lift.change for lift in study.lifts}
    nothing = Estimate(value=math.nan, low=-math.inf, high=math.inf, count=0)
    groups = {f"after {answer}": [by_place.get((name, answer), nothing) for name in names] for answer in answers}
    marks = sorted({check.threshold for check in study.verdict.checks}) if study.verdict else []
    return _bars(f"Lift against {study.lifts[0].over} in %", names, groups, xlabel="lift in %", marks=marks)


def _bars(
    title: str,
    names: Sequence[str],
    groups: dict[str, list[Estimate]],
    *,
    xlabel: str,
    marks: Sequence[float] = (),
) -> Markup:

    def draw(size: Size) -> Markup:
        return bar_chart(title, names, groups, size.width, xlabel=xlabel, marks=marks)

    rows: list[list[Child]] = [
        [name, *(estimate(found[index]) for found in groups.values())] for index, name in enumerate(names)
    ]
    return figure(
        title,
        both(draw),
        legend=bar_legend(list(groups)),
        data=join(tag("p", CUT, class_="muted"), folded("Figures", table(["", *groups], rows, caption=title))),
    )


def knob_curves(study: StudyFiles) -> Markup:
    """Satisfaction and engagement over the knob of the study, a line per series."""
    knob = KNOBS.get(study.study)
    rows = _on_curves(study)
    if knob is None or not rows:
        return Markup("")
    places = sorted({row.x for row in rows if row.x is not None})
    logarithmic = places[0] > 0 and places[-1] / places[0] > LOGARITHMIC_FROM
    of_study = styles(study)
    style_of = {row.series: of_study[row.series] for row in rows}
    made = []
    for metric in (GAINED, PAID):
        lines = []
        for name, style in style_of.items():
            curve = sorted((row for row in rows if row.series == name), key=lambda row: row.x or 0.0)
            changes = [row.change[metric] for row in curve]
            lines.append(
                Line(
                    name=name,
                    points=[(row.x or 0.0, change.value) for row, change in zip(curve, changes, strict=True)],
                    ends=[(change.low, change.high) if _known(change) else None for change in changes],
                    style=style,
                )
            )
        title = f"{HEADINGS[metric]}, change in %"
        made.append(panel(title, lines, xlabel=knob, xticks=places, logarithmic=logarithmic))
    return join(tag("h3", f"Over the {knob}"), panels(made, style_of))


def _on_curves(study: StudyFiles) -> list[RowRecord]:
    rows = [row for row in _moved(study.rows) if row.series and row.x is not None]
    if study.study != sizes.EXPERTS.name:
        return rows
    # The default is a point of both curves, and its row names one.
    default = f"K1={sizes.K1} K2={sizes.K2}"
    both_sizes = [
        dataclasses.replace(row, series=sizes.BY_MAIN, x=float(sizes.K1)) for row in rows if row.label == default
    ]
    return [*both_sizes, *rows]


def histories(study: StudyFiles) -> Markup:
    """Courses of the cells over training: the mean over worlds, and each world faintly behind it."""
    of_study = styles(study)
    style_of = {cell.label: of_study[cell.label] for cell in study.cells if any(cell.history.values())}
    names = list(dict.fromkeys(name for cell in study.cells for name in cell.history))
    quantities = {name: label(name) for name in names} | ({"": GAP} if set(MARGINS) <= set(names) else {})
    made = []
    for name, title in quantities.items():
        lines = [
            Line(name=of, points=mean_course(courses), style=style, faint=courses if len(courses) > 1 else ())
            for of, style in style_of.items()
            if (courses := [course for cell in study.cells if cell.label == of and (course := _course(cell, name))])
        ]
        if any(len(line.points) > 1 for line in lines):
            made.append(panel(title, lines, mark=_bound(study) if name == "divergence" else None))
    if not made:
        return Markup("")
    told = "Mean over the cells of a variant; faint: each of them."
    if _bound(study) is not None:
        told += " The dashed line is what the claim allows."
    return join(
        tag("h3", "Over training"),
        tag("p", told, class_="muted"),
        panels(made, style_of),
    )


def _bound(study: StudyFiles) -> float | None:
    """The divergence that the study's claim allows; None where it claims nothing about one."""
    checks = study.verdict.checks if study.verdict else []
    return next((check.threshold for check in checks if check.unit == "nats"), None)


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


def _moved(rows: Sequence[RowRecord]) -> list[RowRecord]:
    """Rows with both changes; the base, which lies at 0 by definition, is not among them."""
    found = []
    for row in rows:
        values = [row.change[name].value for name in (GAINED, PAID) if name in row.change]
        if len(values) == 2 and all(map(math.isfinite, values)) and any(values):
            found.append(row)
    return found


def _known(found: Estimate) -> bool:
    return math.isfinite(found.high - found.low)
