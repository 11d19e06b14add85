"""Runs of studies `frontier`, `map` and `robustness` with chosen gains, without training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from easq_rec.config import Config
from easq_rec.tools.studies.asked_cell import PREFIX
from easq_rec.tools.studies.comparison import METRICS
from easq_rec.tools.studies.families import EASQ
from easq_rec.tools.studies.grid import BASE, Cell
from easq_rec.tools.studies.store import Run

Level = Callable[[str, Config], float]
"""Gain of a family at its first point, which costs 1% engagement, in percent of satisfaction."""
NOISE = 0.1
LOG_ODDS = 1.7


def priced_runs(cells: Sequence[Cell], level: Level) -> list[Run]:
    """A result for each cell: point number k of a family gains k times its level, and costs k percent, about."""
    rng = random.Random(0)
    counts: dict[tuple[str, str, str], int] = {}

    def metrics(gain: float, price: float) -> dict[str, float]:
        gain += rng.gauss(0, NOISE)
        return dict.fromkeys(METRICS.values(), 0.5 * (1 + gain / 100)) | {"engagement_ndcg5": 0.6 * (1 - price / 100)}

    runs = []
    for cell in cells:
        fused: dict[str, dict[str, float]] = {}
        own = cell.series or cell.variant
        for place, weight in enumerate(cell.fuse, 1):
            fused[f"{weight:g}"] = metrics(place * level(own, cell.config), place)
        for addition in cell.additions:
            place = 1 + sum(text.startswith(f"{addition.partner}=") for text in fused)
            fused[str(addition)] = metrics(place * level(addition.partner, cell.config), place)
        found = dict.fromkeys(METRICS.values(), 0.5) | {"engagement_ndcg5": 0.6}
        # The base of longer training is no point, either.
        if not cell.variant.endswith(BASE):
            key = (own, cell.setting, cell.pair)
            counts[key] = counts.get(key, 0) + 1
            found = metrics(counts[key] * level(own, cell.config), counts[key])
        if cell.variant == EASQ:
            world = cell.config.world
            found |= {f"{PREFIX}answers": 20 * world.density, f"{PREFIX}like_log_odds": LOG_ODDS * world.like_slope}
        runs.append(Run(cell=cell, metrics=found, fused=fused, seconds=1.0))
    return runs
