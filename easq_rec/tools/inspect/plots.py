"""Plots of an inspection, as PNG files. matplotlib is imported when the first one is drawn; it needs no display."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from easq_rec.tools.inspect.lengths import Lengths
from easq_rec.tools.inspect.report import Inspection, clock
from easq_rec.tools.inspect.scan import WIDTHS, Spans

BARS = 64
"""Bars of a histogram, at most."""
MOST_TABLES = 40
BLUE, ORANGE, GREY = "#33608c", "#d9822b", "#b8c4d0"
DPI = 120


def plot(found: Inspection, out: Path) -> None:
    """Writes all plots to the folder `out`."""
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
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter("{x:,.0f}")


def _lengths(lengths: Lengths, title: str, unit: str) -> Any:
    figure, axes = _figure(title)
    longest = max(lengths.counts, default=0)
    # Edges between whole lengths, so that a bar stands over the lengths that it counts.
    edges = np.arange(0, longest + 1 + (width := longest // BARS + 1), width) - 0.5
    axes.hist(list(lengths.counts), edges, weights=list(lengths.counts.values()), rwidth=0.9, color=BLUE)
    for name, share, style in (("median", 0.5, "-"), ("p95", 0.95, ":")):
        length = lengths.quantile(share)
        axes.axvline(length, color=ORANGE, linestyle=style, label=f"{name} {length:,}")
    axes.set_xlabel(f"{unit} (empty: {lengths.empty:.1%})")
    axes.set_ylabel("requests")
    _thousands(axes.xaxis)
    _thousands(axes.yaxis)
    axes.grid(axis="y", color=GREY, alpha=0.5)
    axes.legend(frameon=False)
    return figure


def _over_time(found: Inspection) -> Any:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    spans = found.requests.spans or Spans(start_ms=0, width_ms=min(WIDTHS), counts=[0])
    edges_ms = [spans.start_ms + spans.width_ms * index for index in range(len(spans.counts) + 1)]
    figure, axes = _figure("Requests over time")
    if clock(edges_ms[0], edges_ms[-2]) == "milliseconds":
        edges = [datetime.fromtimestamp(edge / 1_000, UTC) for edge in edges_ms]
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.set_xlabel("time (UTC)")
        axes.stairs(spans.counts, edges, fill=True, color=BLUE)
    else:
        axes.stairs(spans.counts, edges_ms, fill=True, color=BLUE)
        axes.set_xlabel("timestamp_ms")
    width = WIDTHS.get(spans.width_ms, f"{spans.width_ms // max(WIDTHS):,} weeks")
    axes.set_ylabel(f"requests per {width}")
    axes.set_ylim(bottom=0)
    _thousands(axes.yaxis)
    axes.grid(axis="y", color=GREY, alpha=0.5)
    return figure


def _stages(found: Inspection) -> Any:
    stages = found.stages
    bars: list[tuple[str, int, str]] = [("impressions", found.requests.candidates, BLUE)]
    bars += [(name, n, BLUE) for name, n in (("triggered", stages.triggered), ("shown", stages.shown)) if n is not None]
    if stages.answers is not None:
        bars.append(("answered", sum(stages.answers.values()), BLUE))
        bars += [(name, n, ORANGE) for name, n in stages.answers.items()]
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
    # Leave room for the number to the right of the longest bar.
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
    bars = (
        (-0.2, "distinct ids", BLUE, [ids[name] for name in largest]),
        (0.2, "rows", GREY, [found.draft.tables[name].rows for name in largest]),
    )
    for offset, label, color, counts in bars:
        values = [max(count, 0.5) for count in counts]
        drawn = axes.barh(places + offset, values, height=0.38, color=color, label=label)
        axes.bar_label(drawn, labels=[f"{count:,}" for count in counts], padding=4, fontsize=9)
    axes.margins(y=0.01)
    axes.set_yticks(places, [f"{name} ({found.draft.tables[name].id_space})" for name in largest])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.5, 8 * max((found.draft.tables[name].rows for name in largest), default=1))
    axes.set_xlabel("ids, rows (logarithmic)")
    axes.grid(axis="x", color=GREY, alpha=0.5)
    axes.legend(frameon=False, loc="lower right")
    return figure
