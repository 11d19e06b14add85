"""The frontier: what is gained in satisfaction against what is paid in engagement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import estimate
from easq_rec.tools.report.frame import FONT, Frame, Size, framed, svg
from easq_rec.tools.report.marks import color, dash, interval, marker
from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.scales import spread_of_intervals, text_width

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point with both intervals."""

    name: str
    x: Estimate
    y: Estimate
    note: str = ""
    """Written beside it where there is room."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Spots that are joined, in their order."""

    name: str
    style: int
    spots: Sequence[Spot]


def scatter(title: str, families: Sequence[Family], size: Size, *, xlabel: str, ylabel: str, origin: str) -> Markup:
    """The chart as SVG.

    Args:
        families: at least one spot among them.
        origin: name of what lies at (0, 0).
    """
    spots = [spot for family in families for spot in family.spots]
    frame = framed(
        size,
        _range([spot.x for spot in spots]),
        _range([spot.y for spot in spots]),
        named_above=True,
    )
    parts = [frame.axes(xlabel=xlabel, ylabel=ylabel)]
    for family in families:
        parts.append(tag("g", *_family(family, frame), class_=color(family.style)))
    zero = f"translate({frame.x(0):.1f} {frame.y(0):.1f})"
    ring = tag("circle", class_="origin", r=4)
    parts.append(tag("g", tag("title", f"{origin}: 0, by definition"), ring, transform=zero))
    parts.append(_notes(families, frame, origin))
    each = "; ".join(f"{spot.name}: {xlabel} {estimate(spot.x)}, {ylabel} {estimate(spot.y)}" for spot in spots)
    return svg(size, title, f"{each}.", join(*parts))


def _range(estimates: Sequence[Estimate]) -> tuple[float, float]:
    ends = [end for found in estimates for end in (found.low, found.high)]
    return spread_of_intervals([found.value for found in estimates], ends, include=[0.0])


def _family(family: Family, frame: Frame) -> list[Markup]:
    places = [(frame.x(spot.x.value), frame.y(spot.y.value)) for spot in family.spots]
    parts = []
    for spot, (x, y) in zip(family.spots, places, strict=True):
        if math.isfinite(spot.x.high - spot.x.low):
            parts.append(interval(spot.x.low, spot.x.high, frame.x, y, vertical=False))
        if math.isfinite(spot.y.high - spot.y.low):
            parts.append(interval(spot.y.low, spot.y.high, frame.y, x, vertical=True))
    if len(places) > 1:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(tag("polyline", class_="line", points=joined, stroke_dasharray=dash(family.style)))
    for spot, (x, y) in zip(family.spots, places, strict=True):
        told = f"{spot.name}: satisfaction {estimate(spot.y)}, engagement {estimate(spot.x)}"
        parts.append(marker(family.style, x, y, told))
    return parts


def _notes(families: Sequence[Family], frame: Frame, origin: str) -> Markup:
    """The notes of the spots and the name of the origin, each at the first free place around its spot; none where
    there is none."""
    spots = [(spot, family.style) for family in families for spot in family.spots]
    taken = [_around(frame.x(spot.x.value), frame.y(spot.y.value), 5) for spot, _ in spots]
    taken.append(_around(frame.x(0), frame.y(0), 5))
    wanted = [(origin, frame.x(0), frame.y(0), "name")]
    wanted += [
        (spot.note, frame.x(spot.x.value), frame.y(spot.y.value), f"note {color(style)}")
        for spot, style in spots
        if spot.note
    ]
    parts = []
    for text, x, y, kind in wanted:
        width = text_width(text, FONT) + 2
        for dx, dy in ((7, -4), (-7 - width, -4), (7, FONT + 3), (-7 - width, FONT + 3)):
            box = (x + dx, y + dy - FONT + 2, x + dx + width, y + dy + 2)
            inside = box[0] >= frame.x.start and box[2] <= frame.x.end and frame.y.end <= box[1] <= frame.y.start - FONT
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(tag("text", text, x=f"{x + dx:.1f}", y=f"{y + dy:.1f}", class_=kind))
                break
    return join(*parts)


def _around(x: float, y: float, reach: float) -> Box:
    return (x - reach, y - reach, x + reach, y + reach)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
