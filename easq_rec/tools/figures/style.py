"""The look of all figures: one matplotlib style, and a colour, a marker and a dash for each series.

Series have the colours of Okabe and Ito (2008), which people with any kind of colour vision can distinguish. Yellow is
left out because it is too faint on white. Black is replaced by the colour of the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ContextDecorator
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

LIGHT = {
    "page": "#ffffff",
    "text": "#1c2024",
    "muted": "#5b636b",
    "rule": "#d9dee3",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#cc79a7",
    "s4": "#e69f00",
    "s5": "#56b4e9",
    "s6": "#1d2125",
}
"""Colours by their role. No two are equal, so that a page can replace each by a colour of its scheme."""
DARK = LIGHT | {
    "page": "#14171a",
    "text": "#e4e7ea",
    "muted": "#9aa4ad",
    "rule": "#343b42",
    "s0": "#3597d3",
    "s1": "#ee7733",
    "s2": "#1fb98d",
    "s3": "#dc93bb",
    "s4": "#e9ab26",
    "s5": "#8dcdf5",
    "s6": "#e4e7ea",
}
SERIES = tuple(value for name, value in LIGHT.items() if name.startswith("s"))
MARKERS = ("o", "s", "D", "^", "v", "P", "*")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.8)), (0, (6, 1.5, 1.5, 1.5)))
BACKING = {"facecolor": LIGHT["page"], "alpha": 0.75, "linewidth": 0, "pad": 0.5}
"""Box behind text that lies on lines."""
FONT = 11.0
"""Points. An SVG of a page has one pixel per point where it is shown at the width it was drawn for."""
SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.grid": True,
    "axes.labelcolor": LIGHT["text"],
    "axes.labelsize": FONT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT,
    "figure.dpi": 72,
    "figure.titlesize": 14,
    "font.size": FONT,
    "grid.color": LIGHT["rule"],
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markeredgecolor": LIGHT["page"],
    "lines.markeredgewidth": 0.8,
    "lines.markersize": 6.5,
    # Long courses are simplified to what a line of this width can show.
    "path.simplify_threshold": 0.5,
    "svg.fonttype": "none",
    # Matplotlib derives names within the SVG from this salt: equal figures give equal files.
    "svg.hashsalt": "easq-rec",
    "text.color": LIGHT["text"],
    # Names may contain dollar signs, which do not start a formula.
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "ytick.left": False,
}


def house_style() -> ContextDecorator:
    """Decorator of functions that draw or save a figure. The user's matplotlibrc has no effect within them."""
    return matplotlib.style.context(["default", SETTINGS])


def color(style: int) -> str:
    """The colour of series number `style`."""
    return SERIES[style % len(SERIES)]


def look(style: int) -> dict[str, Any]:
    """Colour, marker and dash of a line. Series of equal colour differ in the other two."""
    round_ = style // len(SERIES)
    return {
        "color": color(style),
        "marker": MARKERS[(style + round_) % len(MARKERS)],
        "linestyle": DASHES[(style + round_) % len(DASHES)],
    }


def blank(size: tuple[float, float], panels: int = 1, title: str | None = None) -> tuple[Figure, list[Axes]]:
    """An empty figure.

    Args:
        size: width and height in points.
        panels: number of axes, side by side.
        title: None: the page around the figure shows title and legend.
    """
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
    if title is not None:
        figure.suptitle(title, x=0.01, ha="left")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        for axis in (one.xaxis, one.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(value)))
    return figure, axes


def legend(figure: Figure, axes: Axes) -> None:
    """Names the series of one of the panels below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        room = figure.get_size_inches()[0] * 72
        widest = max(map(len, labels)) * 0.6 * FONT + 50
        figure.legend(handles, labels, loc="outside lower left", ncols=max(1, int(room / widest)))


def tick_label(value: float) -> str:
    """A short number: `0.25`, `12k`, `1e-05`."""
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:g}{unit}"
    return f"{value:g}"


def short_name(name: str, most: int = 40) -> str:
    """A name as a figure can print it: characters without a glyph are replaced, and a long name is cut."""
    clean = "".join(character if character.isprintable() else "?" for character in name)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def limits(values: Sequence[float], ends: Sequence[float] = (), *, margin: float = 0.05) -> tuple[float, float]:
    """Limits of an axis that contain all values.

    Args:
        ends: ends of intervals. They are contained as far as they lie no further from the values than these lie from
            one another: one wide interval would otherwise leave no room for the rest.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    reach = high - low
    bounds = [end for end in ends if math.isfinite(end)]
    if reach > 0:
        bounds = [min(max(end, low - reach), high + reach) for end in bounds]
    low, high = min([low, *bounds]), max([high, *bounds])
    around = margin * (high - low) or margin * abs(low) or 1.0
    return low - around, high + around
