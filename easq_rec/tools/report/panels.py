"""Panels of line charts side by side, with a legend that all of them share, and their figures as tables."""

from __future__ import annotations

from collections.abc import Sequence

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, estimate, short
from easq_rec.tools.report.frame import figure
from easq_rec.tools.report.lines import Line, line_chart
from easq_rec.tools.report.marks import legend
from easq_rec.tools.report.markup import Child, Markup, folded, join, table, tag
from easq_rec.tools.report.scales import chosen

MOST_ROWS = 25
"""Of a table below a chart."""


def panel(
    title: str,
    lines: Sequence[Line],
    *,
    xlabel: str = "step",
    xticks: Sequence[float] | None = None,
    logarithmic: bool = False,
    mark: float | None = None,
    heights: tuple[float, float] | None = None,
    own_legend: bool = False,
) -> Markup:
    """A chart with its table. Arguments are those of `line_chart`.

    Args:
        own_legend: the panel's lines are not those of its neighbours.
    """
    picture = line_chart(
        title, lines, xlabel=xlabel, xticks=xticks, logarithmic=logarithmic, mark=mark, heights=heights
    )
    named = legend({line.name: line.style for line in lines if line.points}) if own_legend else None
    return figure(title, picture, legend=named, data=_data(title, lines, xlabel))


def panels(figures: Sequence[Markup], names: dict[str, int] | None = None) -> Markup:
    """Figures side by side, as many as there is room for; nothing where there are none.

    Args:
        names: style by name, for the legend above them.
    """
    if not figures:
        return Markup("")
    return join(legend(names or {}), tag("div", *figures, class_="panels"))


def _data(title: str, lines: Sequence[Line], xlabel: str) -> Markup:
    drawn = [line for line in lines if line.points]
    places = sorted({x for line in drawn for x, _ in line.points})
    kept = [places[index] for index in chosen(len(places), MOST_ROWS)]
    columns = [_cells(line) for line in drawn]
    rows: list[list[Child]] = [[short(x), *(column.get(x, NONE) for column in columns)] for x in kept]
    count = f"{len(kept)} of {len(places):,} points" if len(kept) < len(places) else "all points"
    headings: list[Child] = [xlabel, *(line.name for line in drawn)]
    return folded(f"Figures ({count})", table(headings, rows, caption=title))


def _cells(line: Line) -> dict[float, str]:
    if not any(line.ends):
        return {x: short(y) for x, y in line.points}
    return {
        x: short(y) if ends is None else estimate(Estimate(value=y, low=ends[0], high=ends[1], count=0))
        for (x, y), ends in zip(line.points, line.ends, strict=True)
    }
