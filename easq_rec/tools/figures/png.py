"""Figures as PNG files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from easq_rec.tools.figures.style import house_style

DPI = 120


@house_style()
def save_png(figure: Figure, file: Path) -> None:
    """Writes a figure. The file appears only once it is complete."""
    partial = file.with_suffix(".partial")
    figure.savefig(partial, dpi=DPI, format="png")
    partial.rename(file)
