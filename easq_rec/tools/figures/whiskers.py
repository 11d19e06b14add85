"""Intervals as lines with a stroke at both ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from easq_rec.evaluation.mean_interval import Estimate


def whiskers(
    axes: Axes, places: Sequence[float], estimates: Sequence[Estimate], *, vertical: bool, color: str, alpha: float
) -> None:
    """Draws the interval of each estimate at its place on the other axis. An unknown interval is left out. One that
    leaves the axes is cut and has no stroke at that end, so the limits of the axes must be set before."""
    lowest, highest = axes.get_ylim() if vertical else axes.get_xlim()
    for place, estimate in zip(places, estimates, strict=True):
        ends = (estimate.low, estimate.high)
        if not all(map(math.isfinite, ends)):
            continue
        stem = [max(ends[0], lowest), min(ends[1], highest)]
        strokes = [end for end in ends if lowest <= end <= highest]
        for values, form in (
            (stem, {"linewidth": 1}),
            (strokes, {"linestyle": "none", "marker": "_" if vertical else "|", "markersize": 6, "markeredgewidth": 1}),
        ):
            same = [place] * len(values)
            xy = (same, values) if vertical else (values, same)
            axes.plot(*xy, color=color, markeredgecolor=color, alpha=alpha, **form)
