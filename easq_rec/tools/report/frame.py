"""The frame of a plot: its size, its axes with ticks, and the SVG element around it.

A plot is drawn at about the size at which it is shown, because its text shrinks with it: panels fit a phone, and what
needs more room is drawn twice, for wide and for narrow pages (`both`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.scales import Scale, apart, text_width, tick_label

FONT = 11.0
BELOW = 34.0
"""Room for the ticks and the label of the x axis."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Pixels of a whole plot."""

    width: float
    height: float


PANEL = Size(width=340, height=200)
WIDE = Size(width=1060, height=560)
NARROW = Size(width=340, height=400)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the data of a plot lie, and in which scales."""

    size: Size
    x: Scale
    y: Scale

    def axes(
        self,
        *,
        xlabel: str,
        ylabel: str | None = None,
        xticks: Sequence[float] | None = None,
        xname: Callable[[float], str] = tick_label,
    ) -> Markup:
        """Grid lines, tick labels, and the names of the axes.

        Args:
            ylabel: None: the plot's title says it.
            xticks: their places; None: round values.
        """
        places = self.x.ticks(self._most(70)) if xticks is None else xticks
        named = apart(places, self.x, xname, FONT)
        bottom, top = self.y.start, self.y.end
        parts: list[Markup] = []
        for value in self.y.ticks(max(3, int((bottom - top) / 34))):
            at = self.y(value)
            parts.append(_line("zero" if value == 0 else "grid", self.x.start, at, self.x.end, at))
            parts.append(_text(tick_label(value), self.x.start - 6, at + 0.35 * FONT, "end"))
        for value in places:
            at = self.x(value)
            parts.append(_line("zero" if value == 0 else "grid", at, bottom, at, top))
        # Labels at the ends stay within the picture.
        for value in named:
            half = text_width(xname(value), FONT) / 2
            at = min(max(self.x(value), half), self.size.width - half)
            parts.append(_text(xname(value), at, bottom + 15, "middle"))
        parts.append(_text(xlabel, self.x.end, bottom + 30, "end", "name"))
        if ylabel is not None:
            parts.append(_text(ylabel, 2, FONT, "start", "name"))
        return join(*parts)

    def _most(self, pixels: float) -> int:
        return max(2, int((self.x.end - self.x.start) / pixels))


def framed(
    size: Size,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    logarithmic: bool = False,
    named_above: bool = False,
) -> Frame:
    """A frame with as much room on the left as its tick labels need.

    Args:
        x: range of the axis.
        y: likewise.
        logarithmic: the x axis.
        named_above: leaves room for the name of the y axis above the plot.
    """
    bottom, top = size.height - BELOW, 22.0 if named_above else 8.0
    vertical = Scale(low=y[0], high=y[1], start=bottom, end=top)
    ticks = vertical.ticks(max(3, int((bottom - top) / 34)))
    left = 10 + max((text_width(tick_label(value), FONT) for value in ticks), default=0.0)
    across = Scale(low=x[0], high=x[1], start=left, end=size.width - 8, logarithmic=logarithmic)
    return Frame(size=size, x=across, y=vertical)


def svg(size: Size, title: str, description: str, *content: Markup) -> Markup:
    """The picture, with what a screen reader says of it."""
    box = f"0 0 {size.width:g} {size.height:g}"
    return tag("svg", tag("title", title), tag("desc", description), *content, class_="plot", role="img", viewBox=box)


def both(draw: Callable[[Size], Markup], wide: Size = WIDE, narrow: Size = NARROW) -> Markup:
    """A plot at two sizes, of which the style sheet shows one."""
    return join(tag("div", draw(wide), class_="wide"), tag("div", draw(narrow), class_="narrow"))


def figure(title: str, picture: Markup, *, legend: Markup | None = None, data: Markup | None = None) -> Markup:
    """A plot with its title, its legend, and its figures as a table."""
    return tag("figure", tag("figcaption", title), legend, picture, data)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    path = f"M{x1:.1f},{y1:.1f}H{x2:.1f}" if y1 == y2 else f"M{x1:.1f},{y1:.1f}V{y2:.1f}"
    return tag("path", class_=kind, d=path)


def _text(content: str, x: float, y: float, anchor: str, kind: str | None = None) -> Markup:
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=kind)
