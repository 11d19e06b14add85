"""Heat maps: a value with a sign at every place of a grid, with text in each field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from easq_rec.tools.figures.style import FONT, LIGHT, blank, color, house_style, short_name

ABOVE, BELOW = color(0), color(1)
"""Colours of values above and below 0. They differ in hue for people with any kind of colour vision."""
FAINTEST, FULLEST = 0.08, 0.6
"""Opacity of a value near 0, and of the largest one. Text must be readable on it."""
SMALL = 0.8 * FONT


@dataclass(frozen=True, kw_only=True)
class HeatField:
    """A place of the grid."""

    value: float
    """Its colour; NaN: none."""
    lines: Sequence[str]
    """Text, from top to bottom."""
    marked: bool
    """Whether it has a frame."""


@house_style()
def draw_heat(
    panels: Mapping[str, Sequence[Sequence[HeatField]]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    size: tuple[float, float],
    xlabel: str,
    ylabel: str,
    most: float,
    title: str | None = None,
) -> Figure:
    """The figure, with a grid for each panel.

    Args:
        panels: fields by row, from the bottom, and column.
        rows: names of the rows, from the bottom.
        columns: names of the columns.
        size: width and height in points.
        most: the absolute value with the fullest colour.
        title: see `blank`. Panels have their names only with it.
    """
    figure, all_axes = blank(size, len(panels), title)
    rows, columns = ([short_name(name, 12) for name in names] for names in (rows, columns))
    for axes, (name, grid) in zip(all_axes, panels.items(), strict=True):
        axes.set_xlim(0, len(columns))
        axes.set_ylim(0, len(rows))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        for y, fields in enumerate(grid):
            for x, field in enumerate(fields):
                _draw(axes, x, y, field, most)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], columns)
        first = axes is all_axes[0]
        axes.set_yticks([y + 0.5 for y in range(len(rows))], rows if first else [""] * len(rows))
        axes.set_xlabel(xlabel, loc="right")
        if first:
            axes.set_ylabel(ylabel)
        if title is not None:
            axes.set_title(name)
    return figure


def _draw(axes: Axes, x: int, y: int, field: HeatField, most: float) -> None:
    if math.isfinite(field.value):
        share = min(abs(field.value) / most, 1.0) if most > 0 else 0.0
        shade, opacity = ABOVE if field.value >= 0 else BELOW, FAINTEST + share * (FULLEST - FAINTEST)
        axes.add_patch(Rectangle((x, y), 1, 1, linewidth=0, facecolor=shade, alpha=opacity))
    if field.marked:
        inside = (x + 0.02, y + 0.02)
        axes.add_patch(Rectangle(inside, 0.96, 0.96, fill=False, edgecolor=LIGHT["text"], linewidth=2.0))
    for place, line in enumerate(field.lines):
        height = y + 0.5 + 0.22 * ((len(field.lines) - 1) / 2 - place)
        axes.text(
            x + 0.5,
            height,
            short_name(line, 22),
            ha="center",
            va="center",
            fontsize=SMALL if place else FONT,
            fontweight="bold" if not place else "normal",
        )
