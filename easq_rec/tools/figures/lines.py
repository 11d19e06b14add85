"""Lines: quantities over the steps of training, over days, or over a setting that a study varies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.style import LIGHT, blank, house_style, legend, limits, look, short_name, tick_label
from easq_rec.tools.figures.whiskers import whiskers

Point = tuple[float, float]
MARKERS = 7
"""Markers of a line that has more than twice as many points."""
LABEL_GAP = 0.09
"""Distance of two tick labels that do not overlap, as a share of the axis."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series."""

    name: str
    style: int
    points: Sequence[Point]
    """By ascending x."""
    estimates: Sequence[Estimate] = ()
    """The points with their intervals. Empty: none has one."""
    faint: Sequence[Sequence[Point]] = ()
    """The courses whose mean the line is, drawn behind it."""


@house_style()
def draw_lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    size: tuple[float, float],
    xlabel: str,
    ticks: Sequence[float] | None = None,
    logarithmic: bool = False,
    marks: Mapping[str, float] | None = None,
    heights: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """The figure, with a panel for each quantity.

    Args:
        panels: the lines by the name of the quantity, at least one point among those of a panel.
        size: width and height in points.
        ticks: the values of x that were measured. None: round values.
        logarithmic: the x axis.
        marks: height of a dashed line, by panel.
        heights: limits of the y axis. None: those of the points.
        title: see `blank`. Panels have their names only with it.
    """
    figure, all_axes = blank(size, len(panels), title)
    for axes, (quantity, found) in zip(all_axes, panels.items(), strict=True):
        mark = (marks or {}).get(quantity)
        if logarithmic:
            axes.set_xscale("log")
        _set_limits(axes, found, logarithmic, [] if mark is None else [mark], heights)
        if mark is not None:
            axes.axhline(mark, color=LIGHT["text"], linestyle=(0, (4, 3)), linewidth=1)
        drawn = [line for line in found if line.points]
        for index, line in enumerate(drawn):
            _draw(axes, line, index, len(drawn))
        if ticks is not None:
            _set_ticks(axes, ticks)
        if title is not None:
            axes.set_title(quantity)
        axes.set_xlabel(xlabel, loc="right")
    if title is not None:
        legend(figure, all_axes[0])
    return figure


def _draw(axes: Axes, line: Line, index: int, count: int) -> None:
    style = look(line.style)
    for course in line.faint:
        axes.plot(*zip(*course, strict=True), color=style["color"], linewidth=0.8, alpha=0.28)
    xs, ys = map(list, zip(*line.points, strict=True))
    if line.estimates:
        # Lines with intervals are moved aside by a few points, so that no interval hides another.
        moved = axes.transData.transform(line.points)
        moved[:, 0] += 0.012 * axes.bbox.width * (index - (count - 1) / 2)
        xs = axes.transData.inverted().transform(moved)[:, 0].tolist()
        whiskers(axes, xs, line.estimates, vertical=True, color=style["color"], alpha=0.6)
    # Lines that run along with each other carry their markers at different places.
    step = len(xs) / MARKERS if len(xs) > 2 * MARKERS else 1.0
    every = (int(step * (index + 0.5) / count), int(step))
    axes.plot(xs, ys, **style, markevery=every, label=short_name(line.name))


def _set_limits(
    axes: Axes, found: Sequence[Line], logarithmic: bool, marks: list[float], heights: tuple[float, float] | None
) -> None:
    xs = [x for line in found for x, _ in line.points]
    if logarithmic:
        low, high = limits([math.log10(x) for x in xs])
        axes.set_xlim(10**low, 10**high)
    else:
        axes.set_xlim(limits(xs, margin=0.03))
    ys = [y for line in found for points in (line.points, *line.faint) for _, y in points]
    ends = [end for line in found for estimate in line.estimates for end in (estimate.low, estimate.high)]
    zero = [0.0] if ends else []
    axes.set_ylim(heights or limits([*ys, *marks, *zero], ends))
    if zero:
        axes.axhline(0, color=LIGHT["muted"], linewidth=1)


def _set_ticks(axes: Axes, places: Sequence[float]) -> None:
    """A tick at every measured value and no others, with a label where there is room for one."""
    labels, free = [], -math.inf
    for place in places:
        at = axes.transAxes.inverted().transform(axes.transData.transform((place, 0)))[0]
        labels.append(tick_label(place) if at >= free else "")
        free = at + LABEL_GAP if labels[-1] else free
    axes.set_xticks(places, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
