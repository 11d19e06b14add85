"""Figures of a page with their legends and their numbers.

A figure is drawn at about the size at which it is shown, because its text scales with it. Panels fit a phone. What
needs more room is drawn twice, for wide and for narrow pages.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, estimate, short
from easq_rec.tools.figures.bars import draw_bars
from easq_rec.tools.figures.frontier import Family, draw_frontier
from easq_rec.tools.figures.lines import Line, draw_lines
from easq_rec.tools.figures.svg import bar_sample, line_sample, svg
from easq_rec.tools.report.parts import PagePlot, PageTable

PANEL = (330, 200)
WIDE, NARROW = (900, 500), (330, 400)
"""Width and height in pixels."""
MOST_ROWS = 25
"""Rows of the table below a plot of lines."""
CUT = "Bars are 95% intervals; one that leaves the plot is cut."

_line_sample = functools.cache(line_sample)
_bar_sample = functools.cache(bar_sample)


def line_legend(styles: Mapping[str, int]) -> list[tuple[Markup, str]]:
    """(sample, name) of each series; none where there is only one."""
    return [(Markup(_line_sample(style)), name) for name, style in styles.items()] if len(styles) > 1 else []


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    xlabel: str = "step",
    ticks: Sequence[float] | None = None,
    logarithmic: bool = False,
    mark: float | None = None,
    heights: tuple[float, float] | None = None,
    with_legend: bool = False,
) -> PagePlot | None:
    """A panel of lines; None where no line has two points.

    Args:
        mark: height of a dashed line.
        with_legend: the lines are not those of the neighbouring panels.
    """
    drawn = [line for line in lines if line.points]
    if all(len(line.points) < 2 for line in drawn):
        return None
    figure = draw_lines(
        {title: drawn},
        size=PANEL,
        xlabel=xlabel,
        ticks=ticks,
        logarithmic=logarithmic,
        marks={} if mark is None else {title: mark},
        heights=heights,
    )
    ends = (
        f"{line.name} goes from {short(line.points[0][1])} at {short(line.points[0][0])} to "
        f"{short(line.points[-1][1])} at {short(line.points[-1][0])}"
        for line in drawn
    )
    places = sorted({x for line in drawn for x, _ in line.points})
    kept = [places[index] for index in spread_indices(len(places), MOST_ROWS)]
    columns = [_cells(line) for line in drawn]
    return PagePlot(
        title=title,
        pictures=[Markup(svg(figure, title, f"Over {xlabel}: {'; '.join(ends)}."))],
        legend=line_legend({line.name: line.style for line in drawn}) if with_legend else (),
        summary=f"Figures ({f'{len(kept)} of {len(places):,}' if len(kept) < len(places) else 'all'} points)",
        table=PageTable(
            caption=title,
            headings=[xlabel, *(line.name for line in drawn)],
            rows=[[short(x), *(column.get(x, NONE) for column in columns)] for x in kept],
        ),
    )


def _cells(line: Line) -> dict[float, str]:
    if line.estimates:
        return {x: estimate(found) for (x, _), found in zip(line.points, line.estimates, strict=True)}
    return {x: short(y) for x, y in line.points}


def spread_indices(count: int, most: int) -> list[int]:
    """At most `most` (2 or more) of the indices 0 to count - 1, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def frontier_plot(families: Sequence[Family], *, title: str, xlabel: str, ylabel: str, origin: str) -> PagePlot:
    """The frontier. Its numbers are in the table of all variants."""
    text = "; ".join(
        f"{family.name}, {spot.note}: {xlabel} {estimate(spot.x)}, {ylabel} {estimate(spot.y)}"
        for family in families
        for spot in family.spots
    )
    figures = [
        draw_frontier(families, size=size, xlabel=xlabel, ylabel=ylabel, origin=origin) for size in (WIDE, NARROW)
    ]
    return PagePlot(
        title=title,
        pictures=[Markup(svg(figure, title, f"{text}.")) for figure in figures],
        legend=line_legend({family.name: family.style for family in families}),
        remark=f"{CUT} The table below has all figures.",
    )


def bar_plot(
    title: str,
    names: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    *,
    xlabel: str,
    marks: Sequence[float] = (),
) -> PagePlot:
    """Bars of each name, one for each group.

    Args:
        marks: places of dashed lines.
    """
    rows = [[name, *(estimate(found[at]) for found in groups.values())] for at, name in enumerate(names)]
    text = "; ".join(
        f"{name}: " + ", ".join(f"{group} {cell}" for group, cell in zip(groups, cells, strict=True))
        for name, *cells in rows
    )
    figures = [
        draw_bars(names, groups, width=width, xlabel=xlabel, marks=marks, names_above=width == NARROW[0])
        for width in (WIDE[0], NARROW[0])
    ]
    return PagePlot(
        title=title,
        pictures=[Markup(svg(figure, title, f"{text}.")) for figure in figures],
        legend=[(Markup(_bar_sample(index)), group) for index, group in enumerate(groups)],
        remark=CUT,
        summary="Figures",
        table=PageTable(caption=title, headings=["", *groups], rows=rows),
    )
