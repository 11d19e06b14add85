"""PNGs of a study. matplotlib is loaded when the first is drawn, without a display.

Axes are in percent against the base. Bars are 95% intervals; where one world alone was measured there are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.comparison import Row

COLORS = (
    *("#33608c", "#d9822b", "#3f8f5f", "#a23b5c", "#7a5ea8", "#8a6d3b", "#4aa3b5"),
    *("#6b6b6b", "#d6608a", "#9aa83a", "#1f2f6b", "#e0b13c", "#5fc2a0"),
)
MARKERS = "osD^vP*X"
GREY = "#b8c4d0"
DPI = 120
TITLES = {"satisfaction": "satisfaction NDCG@5", "engagement": "engagement NDCG@5"}
CHANGE = "change in %"


def save(figure: Any, file: Path) -> None:
    """Writes a figure; the file appears complete."""
    partial = file.with_suffix(".partial")
    figure.savefig(partial, dpi=DPI, format="png")
    partial.rename(file)


def frontier(rows: Sequence[Row]) -> Any:
    """Satisfaction gained against engagement paid: a point per row, points of one series joined in their order."""
    figure, (axes,) = _figure("Satisfaction against engagement, relative to main_only", size=(9, 6))
    drawn = _measured(rows)
    named = {row.series or row.label: None for row in drawn}
    for index, name in enumerate(named):
        mine = sorted((row for row in drawn if (row.series or row.label) == name), key=lambda row: row.x or 0)
        engagement = [row.change["engagement"] for row in mine]
        satisfaction = [row.change["satisfaction"] for row in mine]
        color = COLORS[index % len(COLORS)]
        axes.errorbar(
            [point.value for point in engagement],
            [point.value for point in satisfaction],
            xerr=_errors(engagement),
            yerr=_errors(satisfaction),
            marker=MARKERS[index % len(MARKERS)],
            markersize=7,
            linestyle="-" if len(mine) > 1 else "none",
            color=color,
            ecolor=color,
            elinewidth=1,
            linewidth=1.2,
            label=name,
        )
        for row in mine if mine[0].series else ():
            axes.annotate(
                f"{row.x:g}",
                (row.change["engagement"].value, row.change["satisfaction"].value),
                xytext=(6, 6),
                textcoords="offset points",
                fontsize=9,
                color=color,
            )
    axes.axhline(0, color=GREY, zorder=0)
    axes.axvline(0, color=GREY, zorder=0)
    axes.set_xlabel(f"{TITLES['engagement']}, {CHANGE}")
    axes.set_ylabel(f"{TITLES['satisfaction']}, {CHANGE}")
    axes.grid(color=GREY, alpha=0.4)
    _legend(figure, axes, loc="outside right upper")
    return figure


def curves(rows: Sequence[Row], *, xlabel: str, logarithmic: bool = False) -> Any:
    """Satisfaction and engagement over the x of the rows, side by side, a curve per series."""
    figure, both = _figure("Relative to main_only", size=(11, 4.5), panels=2)
    drawn = [row for row in _measured(rows) if row.series and row.x is not None]
    places = sorted({row.x for row in drawn if row.x is not None})
    series = list(dict.fromkeys(row.series for row in drawn))
    for axes, (metric, title) in zip(both, TITLES.items(), strict=True):
        for index, name in enumerate(series):
            curve = sorted((row for row in drawn if row.series == name), key=lambda row: row.x or 0)
            points = [row.change[metric] for row in curve]
            # Side by side, so that no interval hides another.
            aside = 0.01 * (index - (len(series) - 1) / 2)
            axes.errorbar(
                [_aside(row.x or 0.0, aside, places, logarithmic) for row in curve],
                [point.value for point in points],
                yerr=_errors(points),
                color=COLORS[index],
                marker=MARKERS[index],
                capsize=3,
                label=name,
            )
        if logarithmic:
            axes.set_xscale("log")
        axes.axhline(0, color=GREY, zorder=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(CHANGE)
        axes.grid(color=GREY, alpha=0.4)
    _same_ticks(both, places)
    _legend(figure, both[0], loc="outside upper right", ncols=4)
    return figure


def _aside(x: float, share: float, places: Sequence[float], logarithmic: bool) -> float:
    """x, moved by a share of the axis."""
    if logarithmic:
        return x * (places[-1] / places[0]) ** share
    return x + share * (places[-1] - places[0])


def courses(
    title: str,
    panels: dict[str, dict[str, list[tuple[int, float]]]],
    *,
    marks: dict[str, float] | None = None,
    xlabel: str = "step",
) -> Any:
    """Something over the steps of training, or over days, a panel per quantity and a line per name.

    Args:
        marks: places of dashed lines, by panel.
    """
    figure, axes_of_panels = _figure(title, size=(5 * len(panels), 4.5), panels=len(panels))
    for axes, (quantity, lines) in zip(axes_of_panels, panels.items(), strict=True):
        for index, (name, points) in enumerate(lines.items()):
            if points:
                axes.plot(*zip(*points, strict=True), color=COLORS[index], linewidth=1.5, label=name)
        if marks and quantity in marks:
            axes.axhline(marks[quantity], color="#222222", linestyle="--", linewidth=1)
        axes.set_title(quantity, fontsize=11)
        axes.set_xlabel(xlabel)
        axes.grid(color=GREY, alpha=0.4)
    _legend(figure, axes_of_panels[0], loc="outside lower center", ncols=4)
    return figure


def bars(rows: Sequence[Row]) -> Any:
    """Satisfaction and engagement of every row, one bar each, the first at the top."""
    drawn = _measured(rows)
    groups = {title: [row.change[metric] for row in drawn] for metric, title in TITLES.items()}
    return grouped("Relative to main_only", [row.label for row in drawn], groups, xlabel=CHANGE)


def grouped(
    title: str,
    names: Sequence[str],
    groups: dict[str, list[Estimate]],
    *,
    xlabel: str,
    marks: Sequence[float] = (),
) -> Any:
    """Horizontal bars, those of one name beside one another.

    Args:
        groups: one estimate per name.
        marks: places of dashed lines.
    """
    figure, (axes,) = _figure(title, size=(9, 1.6 + 0.5 * max(len(names), 1)))
    height = 0.8 / len(groups)
    for index, (group, estimates) in enumerate(groups.items()):
        places = [row + (index - (len(groups) - 1) / 2) * height for row in range(len(names))]
        axes.barh(
            places,
            [0.0 if math.isnan(estimate.value) else estimate.value for estimate in estimates],
            height=0.9 * height,
            color=COLORS[index],
            label=group,
            xerr=_errors(estimates),
            error_kw={"ecolor": "#222222", "elinewidth": 1, "capsize": 2},
        )
    for mark in marks:
        axes.axvline(mark, color="#222222", linestyle="--", linewidth=1)
    axes.axvline(0, color=GREY, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color=GREY, alpha=0.4)
    _legend(figure, axes, loc="outside lower center", ncols=len(groups))
    return figure


def _figure(title: str, *, size: tuple[float, float], panels: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return figure, axes


def _legend(figure: Any, axes: Any, **how: Any) -> None:
    """Names what one of the panels shows, outside of them; nothing where it is empty."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, **how)


def _same_ticks(panels: Sequence[Any], places: Sequence[float]) -> None:
    """A tick at every place that was measured, and no others."""
    from matplotlib.ticker import NullFormatter, NullLocator

    for axes in panels:
        axes.set_xticks(places, [f"{place:g}" for place in places], fontsize=9)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())


def _errors(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the bars below and above; none where the ends are not known."""
    return [
        [_length(estimate.value - estimate.low) for estimate in estimates],
        [_length(estimate.high - estimate.value) for estimate in estimates],
    ]


def _length(value: float) -> float:
    return max(value, 0.0) if math.isfinite(value) else 0.0


def _measured(rows: Sequence[Row]) -> list[Row]:
    """Rows with both numbers; the base, which lies at 0 by definition, is not among them."""
    return [
        row
        for row in rows
        if all(math.isfinite(row.change[name].value) for name in ("satisfaction", "engagement"))
        and not (row.change["satisfaction"].value == row.change["engagement"].value == 0.0)
    ]
