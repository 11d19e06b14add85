"""Horizontal bars with intervals, those of one name beside one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import estimate
from easq_rec.tools.report.frame import BELOW, FONT, Frame, Size, svg
from easq_rec.tools.report.marks import color, interval
from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.scales import Scale, fitted, spread_of_intervals, text_width

BAR, GAP, NAME = 10.0, 9.0, 16.0
"""Heights: of a bar, between two names, and of a name that stands above its bars."""
NAMES_BESIDE = 600.0
"""Width from which on names stand on the left of their bars."""


def bar_chart(
    title: str,
    names: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    width: float,
    *,
    xlabel: str,
    marks: Sequence[float] = (),
) -> Markup:
    """The chart as SVG, as high as it needs to be.

    Args:
        names: at least one.
        groups: one estimate per name, by what a bar shows; a value that is NaN has no bar.
        marks: places of dashed lines.
    """
    assert names, title
    beside = width >= NAMES_BESIDE
    row = len(groups) * BAR + GAP + (0 if beside else NAME)
    size = Size(width=width, height=len(names) * row + BELOW + 4)
    estimates = [found for group in groups.values() for found in group]
    ends = [end for found in estimates for end in (found.low, found.high)]
    low, high = spread_of_intervals([found.value for found in estimates], ends, include=[0.0, *marks])
    left = 14 + max(text_width(name, FONT + 1) for name in names) if beside else 6.0
    across = Scale(low=low, high=high, start=min(left, width / 2), end=width - 10)
    frame = Frame(size=size, x=across, y=Scale(low=0, high=1, start=size.height - BELOW, end=4))
    parts = [_grid(frame, xlabel)]
    for mark in marks:
        parts.append(tag("path", class_="mark-line", d=f"M{across(mark):.1f},4V{size.height - BELOW:.1f}"))
    room = across.start - 10 if beside else width - 4
    for index, name in enumerate(names):
        top, shown = 4 + index * row, fitted(name, room, FONT + 1)
        if beside:
            middle = top + (row - GAP) / 2 + 0.35 * FONT
            parts.append(
                tag("text", shown, x=f"{across.start - 8:.1f}", y=f"{middle:.1f}", text_anchor="end", class_="label")
            )
        else:
            parts.append(tag("text", shown, x="2", y=f"{top + NAME - 4:.1f}", class_="label"))
            top += NAME
        for at, (group, found) in enumerate(groups.items()):
            parts.append(_bar(f"{name}, {group}", found[index], at, across, top + at * BAR))
    each = "; ".join(
        f"{name}: " + ", ".join(f"{group} {estimate(found[index])}" for group, found in groups.items())
        for index, name in enumerate(names)
    )
    return svg(size, title, f"{each}.", join(*parts))


def _bar(name: str, found: Estimate, group: int, across: Scale, top: float) -> Markup:
    if math.isnan(found.value):
        return Markup("")
    start, end = sorted((across(0), across(found.value)))
    parts = [
        tag("title", f"{name}: {estimate(found)}"),
        tag(
            "rect",
            class_="near",
            x=f"{across.start:.1f}",
            y=f"{top:.1f}",
            width=f"{across.end - across.start:.1f}",
            height=BAR,
        ),
        tag(
            "rect",
            class_=f"bar b{group}",
            x=f"{start:.1f}",
            y=f"{top + 1:.1f}",
            width=f"{max(end - start, 1):.1f}",
            height=BAR - 2,
        ),
    ]
    if math.isfinite(found.high - found.low):
        parts.append(interval(found.low, found.high, across, top + BAR / 2, vertical=False))
    return tag("g", *parts, class_=f"{color(group)} whisker")


def _grid(frame: Frame, xlabel: str) -> Markup:
    """The x axis alone: the other names what the bars are of."""
    bottom = frame.y.start
    parts = []
    for value in frame.x.ticks(max(3, int((frame.x.end - frame.x.start) / 80))):
        at = frame.x(value)
        parts.append(tag("path", class_="zero" if value == 0 else "grid", d=f"M{at:.1f},4V{bottom:.1f}"))
        parts.append(
            tag("text", f"{value:+g}" if value else "0", x=f"{at:.1f}", y=f"{bottom + 15:.1f}", text_anchor="middle")
        )
    parts.append(tag("text", xlabel, x=f"{frame.x.end:.1f}", y=f"{bottom + 30:.1f}", text_anchor="end", class_="name"))
    return join(*parts)
