"""The frontier: what is gained on one metric against what is paid on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.style import BACKING, FONT, LIGHT, blank, house_style, legend, limits, look, short_name
from easq_rec.tools.figures.whiskers import whiskers

CORNERS = ((6, 4, "left", "bottom"), (-6, 4, "right", "bottom"), (6, -4, "left", "top"), (-6, -4, "right", "top"))
"""Where a note may stand: offset from its point in points, and alignment."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A point with an interval on both axes."""

    x: Estimate
    y: Estimate
    note: str
    """Printed beside the point where there is room."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Points that are joined by a line, in their order."""

    name: str
    style: int
    spots: Sequence[Spot]


@house_style()
def draw_frontier(
    families: Sequence[Family],
    *,
    size: tuple[float, float],
    xlabel: str,
    ylabel: str,
    origin: str,
    title: str | None = None,
) -> Figure:
    """The figure.

    Args:
        size: width and height in points.
        origin: name of the point (0, 0), which all others are compared with.
        title: see `blank`.
    """
    figure, (axes,) = blank(size, title=title)
    spots = [spot for family in families for spot in family.spots]
    axes.set_xlim(_limits([spot.x for spot in spots]))
    axes.set_ylim(_limits([spot.y for spot in spots]))
    axes.axhline(0, color=LIGHT["muted"], linewidth=1)
    axes.axvline(0, color=LIGHT["muted"], linewidth=1)
    axes.set_xlabel(xlabel, loc="right")
    axes.set_title(ylabel)
    for family in families:
        style = look(family.style)
        xs, ys = [spot.x for spot in family.spots], [spot.y for spot in family.spots]
        places = [x.value for x in xs], [y.value for y in ys]
        whiskers(axes, places[1], xs, vertical=False, color=style["color"], alpha=0.6)
        whiskers(axes, places[0], ys, vertical=True, color=style["color"], alpha=0.6)
        axes.plot(*places, **style, label=short_name(family.name))
    axes.plot(0, 0, "o", color=LIGHT["page"], markeredgecolor=LIGHT["text"], markersize=8, markeredgewidth=1.5)
    if title is not None:
        legend(figure, axes)
    notes = [(origin, 0.0, 0.0), *((spot.note, spot.x.value, spot.y.value) for spot in spots)]
    place_notes(figure, axes, notes)
    return figure


def _limits(estimates: Sequence[Estimate]) -> tuple[float, float]:
    ends = [end for estimate in estimates for end in (estimate.low, estimate.high)]
    return limits([0.0, *(estimate.value for estimate in estimates)], ends)


def place_notes(figure: Figure, axes: Axes, notes: Sequence[tuple[str, float, float]]) -> None:
    """Prints each (text, x, y) at the first free corner of its point, or nowhere."""
    # The layout must be final before places are compared.
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    points = axes.transData.transform([(x, y) for _, x, y in notes])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for text, x, y in notes:
        for dx, dy, horizontal, vertical in CORNERS:
            note = axes.annotate(
                short_name(text),
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=FONT,
                bbox=BACKING,
            )
            note.set_in_layout(False)
            box = note.get_window_extent()
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
            note.remove()
