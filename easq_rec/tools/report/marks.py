"""How series look: a colour, a marker and a dash each, so that no two of them differ by colour alone.

Colours are CSS classes s0 to s6, whose values the style sheet sets for a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.scales import Point, Scale

COLORS = 7
DASHES = (None, "6 3", "2 3", "8 3 2 3")
SHAPES = (
    "M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0z",  # circle
    "M-3,-3h6v6h-6z",  # square
    "M0,-3.9L3.9,0L0,3.9L-3.9,0z",  # diamond
    "M0,-3.8L3.7,2.9H-3.7z",  # triangle
    "M0,3.8L3.7,-2.9H-3.7z",  # triangle, point down
    "M-1.2,-3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",  # plus
    "M-3.4,-3.4L0,-1.2L3.4,-3.4L1.2,0L3.4,3.4L0,1.2L-3.4,3.4L-1.2,0z",  # star
)
CAP = 3.0
"""Half the length of the stroke at an interval's end."""


def color(style: int) -> str:
    """The class that sets a series' colour."""
    return f"s{style % COLORS}"


def dash(style: int) -> str | None:
    """`stroke-dasharray` of a series: solid first, another once the colours repeat or the neighbour is solid."""
    return DASHES[(style + style // COLORS) % len(DASHES)]


def marker(style: int, x: float, y: float, title: str | None = None) -> Markup:
    """The series' marker, which shows a text while the pointer is near."""
    shape = SHAPES[(style + style // COLORS) % len(SHAPES)]
    place = f"translate({x:.1f} {y:.1f})"
    drawn = tag("path", class_="mark", d=shape)
    if title is None:
        return tag("g", drawn, transform=place)
    return tag("g", tag("title", title), tag("circle", class_="near", r=9), drawn, transform=place)


def polyline(points: Sequence[Point], x: Scale, y: Scale, **attributes: str | None) -> Markup:
    """A line through points, in the coordinates of the scales."""
    places = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
    return tag("polyline", points=places, **attributes)


def interval(low: float, high: float, scale: Scale, across: float, *, vertical: bool) -> Markup:
    """A bar from low to high with a stroke at both ends; where it leaves the plot it has none."""
    parts = [_segment(scale(low), scale(high), across, vertical)]
    for end in (low, high):
        if scale.holds(end):
            parts.append(_cap(scale(end), across, vertical))
    return tag("path", class_="interval", d="".join(parts))


def _segment(start: float, end: float, across: float, vertical: bool) -> str:
    if vertical:
        return f"M{across:.1f},{start:.1f}V{end:.1f}"
    return f"M{start:.1f},{across:.1f}H{end:.1f}"


def _cap(at: float, across: float, vertical: bool) -> str:
    if vertical:
        return f"M{across - CAP:.1f},{at:.1f}h{2 * CAP:g}"
    return f"M{at:.1f},{across - CAP:.1f}v{2 * CAP:g}"


def legend(names: Mapping[str, int], *, lines: bool = True) -> Markup:
    """Names with the marks of their styles; nothing where there is one name alone.

    Args:
        names: style by name.
        lines: whether a line runs through the markers.
    """
    if len(names) < 2:
        return Markup("")
    return _list((name, _sample(style, lines=lines), style) for name, style in names.items())


def bar_legend(names: Sequence[str]) -> Markup:
    """The same for bars."""
    return _list(
        (name, tag("rect", class_=f"bar b{index}", x=3, y=1, width=20, height=10), index)
        for index, name in enumerate(names)
    )


def _list(entries: Iterable[tuple[str, Markup, int]]) -> Markup:
    items = (
        tag("li", tag("svg", drawn, class_=f"sample {color(style)}", viewBox="0 0 26 12", aria_hidden="true"), name)
        for name, drawn, style in entries
    )
    return tag("ul", *items, class_="legend")


def _sample(style: int, *, lines: bool) -> Markup:
    line = tag("path", class_="line", d="M0,6H26", stroke_dasharray=dash(style)) if lines else None
    return join(line, marker(style, 13, 6))
