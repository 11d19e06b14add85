"""Reliability: what happened over what was predicted. A calibrated prediction lies on the diagonal."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from easq_rec.tools.figures.lines import Line
from easq_rec.tools.figures.style import LIGHT, blank, house_style, limits, look, short_name
from easq_rec.tools.figures.whiskers import whiskers


@house_style()
def draw_reliability(lines: Sequence[Line], *, size: tuple[float, float], xlabel: str, ylabel: str) -> Figure:
    """The figure, with the diagonal.

    Args:
        lines: (mean prediction, mean outcome) of each bin, with the interval of the mean outcome; at least one point.
        size: width and height in points.
    """
    figure, (axes,) = blank(size)
    ends = [end for line in lines for found in line.estimates for end in (found.low, found.high)]
    # Both axes have the same limits, so that the diagonal is one.
    low, high = limits([value for line in lines for point in line.points for value in point], ends)
    low = max(low, 0.0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.plot([low, high], [low, high], color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1)
    for line in lines:
        style = look(line.style)
        xs, ys = zip(*line.points, strict=True)
        if line.estimates:
            whiskers(axes, xs, line.estimates, vertical=True, color=style["color"], alpha=0.6)
        axes.plot(xs, ys, **style, label=short_name(line.name))
    axes.set_xlabel(xlabel, loc="right")
    axes.set_ylabel(ylabel)
    return figure
