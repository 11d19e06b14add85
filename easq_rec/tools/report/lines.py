"""Line charts: quantities over the steps of training, or over a knob that was turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from easq_rec.run_directory.formatting import short
from easq_rec.tools.report.frame import PANEL, Size, framed, svg
from easq_rec.tools.report.marks import color, dash, interval, marker, polyline
from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.scales import Point, chosen, spread, spread_of_intervals, thinned

MOST_POINTS = 240
"""Of a line: a panel has few more pixels across."""
MOST_FAINT = 60
MARKERS = 7
"""Of a line with more points than twice this."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series of a chart."""

    name: str
    points: Sequence[Point]
    """By ascending x."""
    style: int
    ends: Sequence[tuple[float, float] | None] = ()
    """Interval of each point's y; None where it is not known. Empty: none has one."""
    faint: Sequence[Sequence[Point]] = ()
    """What the points are the mean of."""


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    xlabel: str,
    xticks: Sequence[float] | None = None,
    logarithmic: bool = False,
    size: Size = PANEL,
    mark: float | None = None,
    heights: tuple[float, float] | None = None,
) -> Markup:
    """The chart as SVG.

    Args:
        lines: at least one point among them.
        xticks: None: round values.
        logarithmic: the x axis.
        mark: place of a dashed horizontal line.
        heights: range of the y axis; None: that of the points.
    """
    drawn = [line for line in lines if line.points]
    assert drawn, title
    xs = [x for line in drawn for x, _ in line.points]
    across = _log_spread(xs) if logarithmic else spread(xs, margin=0.03)
    frame = framed(size, across, heights or _heights(drawn, mark), logarithmic=logarithmic)
    parts = [frame.axes(xlabel=xlabel, xticks=xticks)]
    if mark is not None:
        at = f"M{frame.x.start:.1f},{frame.y(mark):.1f}H{frame.x.end:.1f}"
        parts.append(tag("path", class_="mark-line", d=at))
    for line in drawn:
        for course in line.faint:
            kept = thinned(course, MOST_FAINT)
            parts.append(polyline(kept, frame.x, frame.y, class_=f"faint {color(line.style)}"))
    for index, line in enumerate(drawn):
        kept = thinned(line.points, MOST_POINTS)
        content = [
            interval(*ends, frame.y, frame.x(x), vertical=True)
            for (x, _), ends in zip(line.points, line.ends, strict=False)
            if ends is not None
        ]
        content.append(polyline(kept, frame.x, frame.y, class_="line", stroke_dasharray=dash(line.style)))
        for x, y in _marked(kept, index, len(drawn)):
            content.append(marker(line.style, frame.x(x), frame.y(y), f"{line.name}, {xlabel} {short(x)}: {short(y)}"))
        parts.append(tag("g", *content, class_=color(line.style)))
    return svg(size, title, _described(drawn, xlabel), join(*parts))


def _heights(lines: Sequence[Line], mark: float | None) -> tuple[float, float]:
    values = [y for line in lines for _, y in line.points]
    include = [] if mark is None else [mark]
    ends = [end for line in lines for pair in line.ends if pair is not None for end in pair]
    if ends:
        return spread_of_intervals(values, ends, include=[0.0, *include])
    return spread([*values, *include, *(y for line in lines for course in line.faint for _, y in course)])


def _log_spread(values: Sequence[float]) -> tuple[float, float]:
    low, high = spread([math.log10(value) for value in values], margin=0.04)
    return 10**low, 10**high


def _marked(points: Sequence[Point], index: int, lines: int) -> list[Point]:
    """Where a line carries its marker: at every point if they are few, else here and there, at other places than its
    neighbours, which may run along with it."""
    if len(points) <= 2 * MARKERS:
        return list(points)
    shift = (index + 0.5) / lines * len(points) / MARKERS
    return [points[min(int(at * len(points) / MARKERS + shift), len(points) - 1)] for at in chosen(MARKERS, MARKERS)]


def _described(lines: Sequence[Line], xlabel: str) -> str:
    each = (
        f"{line.name} goes from {short(line.points[0][1])} at {short(line.points[0][0])} to "
        f"{short(line.points[-1][1])} at {short(line.points[-1][0])}"
        for line in lines
    )
    return f"Over {xlabel}: {'; '.join(each)}."
