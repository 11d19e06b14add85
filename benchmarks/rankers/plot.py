"""AUC and GAUC of every ranker with their intervals, as a PNG file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.png import save_png
from easq_rec.tools.figures.style import LIGHT, SERIES, blank, house_style, legend, limits, short_name
from easq_rec.tools.figures.whiskers import whiskers

PANELS = (("auc", "AUC over all impressions"), ("gauc", "GAUC: AUC within a user, weighted by impressions"))
KINDS = (
    ("peer", SERIES[0], "o", "peers"),
    ("recipe", SERIES[1], "D", "recipes of easq-rec"),
    ("average", SERIES[2], "s", "average of rankers"),
)
ROW, AROUND, WIDTH = 26.0, 110.0, 900.0
"""Points: height of a ranker, height of everything else, width."""
CHANCE = 0.5


@house_style()
def draw(rows: Mapping[str, Mapping[str, Any]], file: Path, *, title: str) -> None:
    """Draws one point per ranker, best AUC on top.

    Args:
        rows: by name of the ranker, the values that the benchmark publishes.
    """
    names = sorted(rows, key=lambda name: -rows[name]["auc"]["value"])
    figure, panels = blank((WIDTH, AROUND + ROW * len(names)), panels=len(PANELS), title=title)
    for axes, (metric, label) in zip(panels, PANELS, strict=True):
        found = {name: _estimate(rows[name][metric]) for name in names}
        ends = [end for one in found.values() for end in (one.low, one.high)]
        axes.set_xlim(limits([CHANCE, *(one.value for one in found.values())], ends))
        axes.set_ylim(len(names) - 0.5, -0.5)
        for kind, color, marker, said in KINDS:
            places = [place for place, name in enumerate(names) if rows[name]["kind"] == kind]
            chosen = [found[names[place]] for place in places]
            whiskers(axes, places, chosen, vertical=False, color=color, alpha=0.8)
            values = [one.value for one in chosen]
            if places:
                axes.plot(values, places, linestyle="none", marker=marker, color=color, label=said)
        axes.axvline(CHANCE, color=LIGHT["muted"], linewidth=1)
        axes.set_xlabel(label, loc="right")
        axes.grid(visible=False, axis="y")
        shown = [short_name(name) for name in names] if metric == PANELS[0][0] else []
        axes.set_yticks(range(len(shown)), shown, color=LIGHT["text"])
    legend(figure, panels[0])
    save_png(figure, file)


def _estimate(value: Mapping[str, float | None]) -> Estimate:
    known = {name: float("nan") if number is None else number for name, number in value.items()}
    return Estimate(value=known["value"], low=known["low"], high=known["high"], count=1)
