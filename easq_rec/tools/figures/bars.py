"""Horizontal bars with intervals, in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.style import BACKING, FONT, LIGHT, blank, color, house_style, legend, limits, short_name
from easq_rec.tools.figures.whiskers import whiskers

FILLS = (1.0, 0.35, 0.7, 0.15)
"""Opacity of the bars of each group, so that groups differ by more than their colour."""
BAR, GAP, NAME = 11.0, 9.0, 17.0
"""Heights in points: of a bar, of the gap between two names, and of a name above its bars."""
AROUND = 44.0
"""Height of axis labels and margins in points."""


@house_style()
def draw_bars(
    names: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    *,
    width: float,
    xlabel: str,
    marks: Sequence[float] = (),
    names_above: bool = False,
    title: str | None = None,
) -> Figure:
    """The figure, as high as its bars need.

    Args:
        groups: one estimate per name, by the name of the group. A value that is NaN has no bar.
        width: in points.
        marks: places of dashed lines.
        names_above: prints each name above its bars instead of left of them, where the figure is narrow.
        title: see `blank`.
    """
    above = NAME if names_above else 0.0
    row = len(groups) * BAR + GAP + above
    height = len(names) * row + AROUND + (0 if title is None else 50)
    figure, (axes,) = blank((width, height), title=title)
    estimates = [estimate for group in groups.values() for estimate in group]
    ends = [end for estimate in estimates for end in (estimate.low, estimate.high)]
    axes.set_xlim(limits([0.0, *marks, *(estimate.value for estimate in estimates)], ends))
    axes.set_ylim(max(len(names), 1) * row, 0)
    for index, (group, found) in enumerate(groups.items()):
        places = [at * row + above + GAP / 2 + (index + 0.5) * BAR for at in range(len(names))]
        values = [0.0 if math.isnan(estimate.value) else estimate.value for estimate in found]
        fill = (color(index), FILLS[index % len(FILLS)])
        axes.barh(places, values, height=0.8 * BAR, color=[fill], edgecolor=color(index), label=group)
        whiskers(axes, places, found, vertical=False, color=LIGHT["text"], alpha=0.8)
    axes.axvline(0, color=LIGHT["muted"], linewidth=1)
    for mark in marks:
        axes.axvline(mark, color=LIGHT["text"], linestyle=(0, (4, 3)), linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(xlabel, loc="right")
    if names_above:
        axes.set_yticks([])
        for at, name in enumerate(names):
            place = (0.0, at * row + GAP / 2 + NAME - 4)
            cut = short_name(name, int(width / (0.62 * FONT)))
            axes.text(*place, cut, transform=axes.get_yaxis_transform(), bbox=BACKING)
    else:
        middles = [(at + 0.5) * row for at in range(len(names))]
        axes.set_yticks(middles, [short_name(name) for name in names], color=LIGHT["text"])
    if title is not None:
        legend(figure, axes)
    return figure
