"""PNGs of an inspection. matplotlib is loaded when the first is drawn, without a display."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from easq_rec.data.timestamp_units import time_unit
from easq_rec.tools.inspect.report import Inspection
from easq_rec.tools.inspect.sketch import Lengths

BARS = 64
"""Bars of a histogram, at most."""
MOMENTS = 400
"""Spans on the time axis, at most."""
MOST_TABLES = 40
BLUE, ORANGE, GREY = "#33608c", "#d9822b", "#b8c4d0"
DPI = 120


def plot(found: Inspection, out: Path) -> None:
    """Draws what there is to draw into `out`."""
    requests = found.requests
    _save(_lengths(requests.lengths["candidates"], "Candidates per request", "candidates"), out / "candidates.png")
    _save(_lengths(requests.lengths["history"], "History length per request", "history entries"), out / "history.png")
    _save(_over_time(found), out / "requests_over_time.png")
    _save(_stages(found), out / "answers_per_stage.png")
    _save(_tables(found), out / "table_cardinalities.png")


def _figure(title: str, *, height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=DPI)


def _thousands(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _lengths(lengths: Lengths, title: str, unit: str) -> Any:
    counts, summary = lengths.counts, lengths.summary()
    width = max(1, -(-len(counts) // BARS))
    heights = np.add.reduceat(counts, np.arange(0, len(counts), width))
    figure, axes = _figure(title)
    # A bar of one length stands on it, a wider one begins at its first.
    starts = np.arange(len(heights)) * width - (0.45 if width == 1 else 0)
    axes.bar(starts, heights, width=0.9 * width, align="edge", color=BLUE)
    for name, style in (("median", "-"), ("p95", ":")):
        axes.axvline(summary[name], color=ORANGE, linestyle=style, label=f"{name} {summary[name]:,.0f}")
    axes.set_xlabel(f"{unit} (empty: {summary['empty']:.1%})")
    axes.set_ylabel("requests")
    _thousands(axes.xaxis)
    _thousands(axes.yaxis)
    axes.grid(axis="y", color=GREY, alpha=0.5)
    axes.legend(frameon=False)
    return figure


def _over_time(found: Inspection) -> Any:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    starts, counts, width = found.requests.spans.counts(MOMENTS)
    figure, axes = _figure("Requests over time")
    if starts and time_unit(starts[0], starts[-1]) == "milliseconds":
        # A step per span: its count holds from its start to its end.
        edges = [datetime.fromtimestamp(start / 1_000, UTC) for start in [*starts, starts[-1] + width]]
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.set_xlabel("time (UTC)")
        axes.stairs(counts, edges, fill=True, color=BLUE)
    else:
        axes.stairs(counts, [*starts, starts[-1] + width] if starts else [0], fill=True, color=BLUE)
        axes.set_xlabel("timestamp_ms")
    axes.set_ylabel(f"requests per {_span(width)}")
    axes.set_ylim(bottom=0)
    _thousands(axes.yaxis)
    axes.grid(axis="y", color=GREY, alpha=0.5)
    return figure


def _stages(found: Inspection) -> Any:
    stages = found.stages
    bars: list[tuple[str, int, str]] = [("impressions", found.requests.candidates, BLUE)]
    bars += [(name, n, BLUE) for name, n in (("triggered", stages.triggered), ("shown", stages.shown)) if n is not None]
    if stages.answers is not None:
        bars.append(("answered", sum(stages.answers), BLUE))
        bars += [(name, n, ORANGE) for name, n in zip(stages.scale.names, stages.answers, strict=True)]
    return _bars("Impressions per stage of the questionnaire", bars, "impressions (logarithmic)")


def _bars(title: str, bars: list[tuple[str, int, str]], unit: str) -> Any:
    """Horizontal bars on a logarithmic axis, the first at the top, each with its number."""
    figure, axes = _figure(title, height=1.6 + 0.32 * len(bars))
    places = np.arange(len(bars))
    values = [max(value, 0.5) for _, value, _ in bars]
    drawn = axes.barh(places, values, color=[color for _, _, color in bars], height=0.7)
    axes.bar_label(drawn, labels=[f"{value:,}" for _, value, _ in bars], padding=4)
    axes.set_yticks(places, [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    # Room for the numbers to the right of the longest bar.
    axes.set_xlim(0.5, 8 * max(values))
    axes.set_xlabel(unit)
    axes.grid(axis="x", color=GREY, alpha=0.5)
    return figure


def _tables(found: Inspection) -> Any:
    ids = {name: found.draft.ids[name] for name in found.draft.tables}
    largest = sorted(ids, key=lambda name: -ids[name])[:MOST_TABLES]
    title = "Distinct ids and suggested rows of the tables"
    if len(ids) > len(largest):
        title += f" (the largest {MOST_TABLES})"
    figure, axes = _figure(title, height=1.9 + 0.5 * len(largest))
    places = np.arange(len(largest))
    for offset, label, color, values in (
        (-0.2, "distinct ids", BLUE, [ids[name] for name in largest]),
        (0.2, "rows", GREY, [found.draft.tables[name].rows for name in largest]),
    ):
        drawn = axes.barh(places + offset, [max(value, 0.5) for value in values], height=0.38, color=color, label=label)
        axes.bar_label(drawn, labels=[f"{value:,}" for value in values], padding=4, fontsize=9)
    axes.set_yticks(places, [f"{name} ({found.draft.tables[name].id_space})" for name in largest])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.5, 8 * max((found.draft.tables[name].rows for name in largest), default=1))
    axes.set_xlabel("ids, rows (logarithmic)")
    axes.grid(axis="x", color=GREY, alpha=0.5)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _span(width_ms: int) -> str:
    """A width of `Spans`, in words."""
    seconds = width_ms // 1_000
    for name, length in (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return name if count == 1 else f"{count:,} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"
