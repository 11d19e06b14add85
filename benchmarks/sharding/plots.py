"""Figures of a plan: bytes of each table by rank, and memory and time per rank. Drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 40
"""Number of tables with a separate row in a heat map; the others share one."""
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#999999")
"""Okabe and Ito's palette, which colour-blind readers can distinguish."""


def heat_map(
    tables: Sequence[str], kinds: Sequence[str], bytes_TK: np.ndarray, path: Path, *, title: str, unit: str
) -> None:
    """Tables (largest first) by ranks.

    Args:
        kinds: kind of each table, written after its name.
        bytes_TK: size of each table on each rank, in `unit`.
    """
    figure, axes = _figure(width=11, height=2.2 + 0.22 * min(len(tables), MOST_ROWS + 1))
    labels = [f"{table}  {kind}" for table, kind in zip(tables, kinds, strict=True)]
    if len(tables) > MOST_ROWS:
        rest = bytes_TK[MOST_ROWS:].sum(axis=0, keepdims=True)
        labels = [*labels[:MOST_ROWS], f"{len(tables) - MOST_ROWS} smaller tables"]
        bytes_TK = np.concatenate([bytes_TK[:MOST_ROWS], rest])
    shown_TK = np.ma.masked_equal(bytes_TK, 0)
    from matplotlib.colors import LogNorm

    low, high = float(shown_TK.min()), float(shown_TK.max())
    norm = LogNorm(vmin=low, vmax=high if high > low else low * 1.01)
    image = axes.imshow(shown_TK, aspect="auto", interpolation="nearest", cmap="viridis", norm=norm)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    _rank_axis(axes, bytes_TK.shape[1])
    axes.set_title(title, loc="left", fontsize=11)
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.03)
    bar.set_label(f"{unit} on the rank", fontsize=9)
    figure.savefig(path, dpi=110)


def rank_bars(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, title: str) -> None:
    """Stacked bars per rank, one panel below the other.

    Args:
        panels: by the label of the value axis, with its unit: name of a part to its value on every rank.
    """
    shown = {label: {name: part for name, part in parts.items() if any(part)} for label, parts in panels.items()}
    shown = {label: parts for label, parts in shown.items() if parts}
    figure, *_ = _figure(width=11, height=0.8 + 2.4 * len(shown), empty=True)
    grid = figure.subplots(len(shown), 1, squeeze=False)
    for axes, (label, parts) in zip(grid[:, 0], shown.items(), strict=True):
        ranks = len(next(iter(parts.values())))
        base = np.zeros(ranks)
        for colour, (name, values) in zip(COLOURS, parts.items(), strict=False):
            axes.bar(range(ranks), values, bottom=base, color=colour, width=0.85, label=name.replace("_", " "))
            base += np.asarray(values)
        axes.axhline(base.mean(), color="black", linewidth=0.8, linestyle="--", label=f"mean {_short(base.mean())}")
        axes.set_ylabel(label, fontsize=9)
        axes.set_ylim(0, float(base.max()) * 1.08)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
        _rank_axis(axes, ranks)
    grid[0, 0].set_title(title, loc="left", fontsize=11)
    figure.savefig(path, dpi=110)


def case_bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path, *, title: str) -> None:
    """Stacked bars, a line per case, panels side by side.

    Args:
        panels: by the label of the value axis, with its unit: case to its parts.
    """
    cases = list(next(iter(panels.values())))
    figure, *_ = _figure(width=13, height=1.4 + 0.32 * len(cases), empty=True)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (label, bars) in zip(grid[0], panels.items(), strict=True):
        base = np.zeros(len(cases))
        parts = list(dict.fromkeys(part for case in cases for part in bars[case]))
        for colour, part in zip(COLOURS, parts, strict=False):
            values = [bars[case].get(part, 0.0) for case in cases]
            axes.barh(range(len(cases)), values, left=base, color=colour, height=0.75, label=part)
            base += np.asarray(values)
        axes.set_yticks(range(len(cases)), cases, fontsize=9)
        axes.set_xlabel(label, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    grid[0, 0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=110)


def _figure(*, width: float, height: float, empty: bool = False):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return (figure,) if empty else (figure, figure.add_subplot())


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rank_axis(axes: Axes, ranks: int) -> None:
    """Ticks only at whole ranks, in steps of hosts if there are many."""
    step = 1 if ranks <= 16 else 8 * max(1, ranks // 128)
    axes.set_xticks(range(0, ranks, step), [str(rank) for rank in range(0, ranks, step)], fontsize=8)
    axes.set_xlabel("rank", fontsize=9)
