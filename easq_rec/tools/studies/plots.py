"""The figures of a study: points, bars and lines of its rows, and the PNG files.

Values are changes against the base in percent, with 95% intervals. A row with a single world has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.bars import draw_bars
from easq_rec.tools.figures.frontier import Family, Spot, draw_frontier
from easq_rec.tools.figures.lines import Line, Point, draw_lines
from easq_rec.tools.studies.comparison import Row
from easq_rec.tools.studies.grid import ANCHORS, BASE

GAINED, PAID = "satisfaction", "engagement"
TITLES = {GAINED: "satisfaction NDCG@5", PAID: "engagement NDCG@5"}
CHANGE = "change in %"
AGAINST = f"Change against {BASE}"


def moved(rows: Sequence[Row]) -> list[Row]:
    """Rows with both changes, without the base, whose changes are 0 by definition, and without `ANCHORS`."""
    found = []
    for row in rows:
        if row.variant in ANCHORS:
            continue
        values = [row.change[name].value for name in TITLES if name in row.change]
        if len(values) == len(TITLES) and all(map(math.isfinite, values)) and any(values):
            found.append(row)
    return found


def styles(names: Sequence[str]) -> dict[str, int]:
    """A style for each series. The base is last, because some figures leave it out."""
    distinct = dict.fromkeys(names)
    return {name: style for style, name in enumerate([*(name for name in distinct if name != BASE), BASE])}


def families(rows: Sequence[Row]) -> list[Family]:
    """The points of the frontier: rows of one series are joined in the order of their x."""
    by_series: dict[str, list[Row]] = {}
    for row in moved(rows):
        by_series.setdefault(row.series or row.label, []).append(row)
    style_of = styles([row.series or row.label for row in rows])
    return [
        Family(
            name=name,
            style=style_of[name],
            spots=[
                Spot(
                    x=row.change[PAID],
                    y=row.change[GAINED],
                    note=f"{row.x:g}" if row.series and row.x is not None else row.label,
                )
                for row in sorted(found, key=lambda row: row.x or 0.0)
            ],
        )
        for name, found in by_series.items()
    ]


def changes_over_x(rows: Sequence[Row]) -> dict[str, list[Line]]:
    """Satisfaction and engagement over the x of the rows, a line for each series that has one."""
    drawn = [row for row in moved(rows) if row.series and row.x is not None]
    style_of = styles([row.series or row.label for row in rows])
    found: dict[str, list[Line]] = {title: [] for title in TITLES.values()}
    for series in dict.fromkeys(row.series for row in drawn):
        curve = sorted((row for row in drawn if row.series == series), key=lambda row: row.x or 0.0)
        for metric, title in TITLES.items():
            estimates = [row.change[metric] for row in curve]
            points = [(row.x or 0.0, estimate.value) for row, estimate in zip(curve, estimates, strict=True)]
            found[title].append(Line(name=series, style=style_of[series], points=points, estimates=estimates))
    return found


def places(panels: Mapping[str, Sequence[Line]]) -> list[float]:
    """The x values of the lines, ascending."""
    return sorted({x for lines in panels.values() for line in lines for x, _ in line.points})


def changes(rows: Sequence[Row]) -> tuple[list[str], dict[str, list[Estimate]]]:
    """(labels, satisfaction and engagement of each) of the rows."""
    drawn = moved(rows)
    return [row.label for row in drawn], {title: [row.change[name] for row in drawn] for name, title in TITLES.items()}


def frontier(rows: Sequence[Row]) -> Figure:
    """Change of satisfaction against change of engagement."""
    return draw_frontier(
        families(rows),
        size=(720, 520),
        xlabel=f"{TITLES[PAID]}, {CHANGE}",
        ylabel=f"{TITLES[GAINED]}, {CHANGE}",
        origin=BASE,
        title=f"Satisfaction against engagement, relative to {BASE}",
    )


def curves(rows: Sequence[Row], *, xlabel: str, logarithmic: bool = False) -> Figure:
    """Satisfaction and engagement over the x of the rows, side by side."""
    panels = changes_over_x(rows)
    return draw_lines(
        panels,
        size=(800, 340),
        xlabel=xlabel,
        ticks=places(panels),
        logarithmic=logarithmic,
        title=f"{AGAINST} in %",
    )


def courses(
    title: str,
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    *,
    marks: Mapping[str, float] | None = None,
    xlabel: str = "step",
) -> Figure:
    """Quantities over the steps of training, or over days.

    Args:
        panels: the points by quantity and name.
        marks: height of a dashed line, by quantity.
    """
    drawn = {
        quantity: [Line(name=name, style=style, points=points) for style, (name, points) in enumerate(found.items())]
        for quantity, found in panels.items()
    }
    return draw_lines(drawn, size=(360 * len(panels), 320), xlabel=xlabel, marks=marks, title=title)


def bars(rows: Sequence[Row]) -> Figure:
    """Satisfaction and engagement of every row, the first at the top."""
    labels, groups = changes(rows)
    return grouped(AGAINST, labels, groups, xlabel=CHANGE)


def grouped(
    title: str,
    names: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    *,
    xlabel: str,
    marks: Sequence[float] = (),
) -> Figure:
    """Bars of each name, one for each group.

    Args:
        groups: one estimate per name.
        marks: places of dashed lines.
    """
    return draw_bars(names, groups, width=720, xlabel=xlabel, marks=marks, title=title)
