"""Envelopes: what each family of points gains at every price. A few families stand out, and the others are thin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from easq_rec.tools.figures.frontier import place_notes
from easq_rec.tools.figures.style import LIGHT, blank, color, house_style, legend, limits, look, short_name

Place = tuple[float, float]
ROOM = 0.3
"""Share of the longest price that is shown at most on the side where something is gained without a price."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A family: its envelope as a line, and its points."""

    name: str
    style: int | None
    """None: thin, without a colour."""
    line: Sequence[Place]
    points: Sequence[Place]


@house_style()
def draw_envelopes(
    envelopes: Sequence[Envelope],
    *,
    size: tuple[float, float],
    longest: float,
    marks: Sequence[float],
    xlabel: str,
    ylabel: str,
    origin: str,
    title: str | None = None,
) -> Figure:
    """The figure. Points that pay more than the longest price are not shown.

    Args:
        size: width and height in points.
        longest: the longest price that is shown, above 0; x is minus the price.
        marks: prices at which gains are read, as dashed lines.
        origin: name of the point (0, 0).
        title: see `blank`.
    """
    figure, (axes,) = blank(size, title=title)
    shown = [(x, y) for one in envelopes for x, y in (*one.points, *one.line) if -longest <= x and math.isfinite(y)]
    right = min(max([0.0, *(x for x, _ in shown)]), ROOM * longest)
    axes.set_xlim(-1.02 * longest, right + 0.05 * longest)
    axes.set_ylim(limits([0.0, *(y for x, y in shown if x <= right)]))
    axes.axhline(0, color=LIGHT["muted"], linewidth=1)
    axes.axvline(0, color=LIGHT["muted"], linewidth=1)
    for mark in marks:
        axes.axvline(-mark, color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xlabel(xlabel, loc="right")
    axes.set_title(ylabel)
    notes = [(origin, 0.0, 0.0)]
    # The thin ones are drawn first, below the others.
    for one in sorted(envelopes, key=lambda one: one.style is not None):
        # An SVG of a page does not cut what lies outside of the axes.
        points = [(x, y) for x, y in one.points if -longest <= x <= right and math.isfinite(y)]
        line = [(x, y) for x, y in one.line if -longest <= x <= right]
        xs, ys = _columns(line)
        if one.style is None:
            axes.plot(xs, ys, color=LIGHT["muted"], linewidth=0.8, alpha=0.6)
            axes.plot(*_columns(points), linestyle="none", marker=".", markersize=4, color=LIGHT["muted"], alpha=0.6)
            notes += [(one.name, *line[-1])] if line else []
        else:
            style = look(one.style)
            axes.plot(xs, ys, color=style["color"], linestyle=style["linestyle"], linewidth=2.2)
            axes.plot(*_columns(points), linestyle="none", marker=style["marker"], color=color(one.style))
            # One line of the legend has both.
            axes.plot([], [], **style, label=short_name(one.name))
    axes.plot(0, 0, "o", color=LIGHT["page"], markeredgecolor=LIGHT["text"], markersize=8, markeredgewidth=1.5)
    if title is not None:
        legend(figure, axes)
    place_notes(figure, axes, notes)
    return figure


def _columns(points: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
