"""What do the parts of the default alignment gain on worlds that no study uses?

    python -m benchmarks.default_choices [--seeds 10 11] [--jobs 2] [--folder DIR] [--out FILE]

At each place, a world with its number of answers, its slope of likes and its share of satisfaction by video, every
change of `easq` is compared by its gain in satisfaction NDCG@5 at a price of 1% and 2% engagement NDCG@5, as in study
`map`. The default was chosen on these worlds; the studies use others. Prints JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.report import hardware, publish
from easq_rec.config import Config
from easq_rec.config.counts import with_usual_answer_counts
from easq_rec.config.recipes import with_world
from easq_rec.config.variants import without_answer_counts, without_lora
from easq_rec.tools.studies.answers_map import world_at
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.comparison import StudyComparison, estimate_values, fused_variant
from easq_rec.tools.studies.families import EASQ, FAMILIES, SATISFACTION_WEIGHTS, base_cell
from easq_rec.tools.studies.grid import Cell, seeded
from easq_rec.tools.studies.partner import ANSWER_PRIOR, ITEM_PRIOR
from easq_rec.tools.studies.price import PRICES, Priced
from easq_rec.tools.studies.robustness import nothing_expected
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import opened

ADDED = (ITEM_PRIOR, ANSWER_PRIOR)
"""Baselines that need no training, for comparison."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Properties of a world that differ from those of its version; None: not changed."""

    version: Literal[1, 2] = 2
    like_slope: float | None = None
    item_share: float | None = None
    density: float = 100.0

    def config(self) -> Config:
        """The default on this world."""
        base = with_world(base_config("full"), self.version)
        if self.like_slope is None or self.item_share is None:
            return replace(base, world=replace(base.world, density=self.density))
        return replace(base, world=world_at(base.world, self.like_slope, self.item_share, self.density))


PLACES = {
    "World 1": Place(version=1),
    "World 2": Place(),
    "few answers, likes tell much": Place(like_slope=1.3, item_share=0.4, density=10.0),
    "few answers, likes tell little": Place(like_slope=0.2, item_share=0.05, density=10.0),
    "many answers, satisfaction by video": Place(like_slope=0.2, item_share=0.4, density=1_000.0),
    "many answers, satisfaction by taste": Place(like_slope=1.3, item_share=0.05, density=1_000.0),
}


def replays(most: int) -> Callable[[Config], Config]:
    return lambda config: replace(config, replay=replace(config.replay, max_replays=most))


def smoothing(answers: float) -> Callable[[Config], Config]:
    return lambda config: replace(config, schema=with_usual_answer_counts(config.schema, smoothing=answers))


def earlier_warmup(config: Config) -> Config:
    """The warm-up ends with 35 answers of each class, and outcomes are evidence at 90% confidence."""
    evidence = replace(config.losses.evidence, caution=1.64)
    return replace(config, losses=replace(config.losses, warmup_per_class=35, evidence=evidence))


def more_answers(config: Config) -> Config:
    """Four times as many answers in a step."""
    return replace(config, replay=replace(config.replay, answers_per_step=4 * config.replay.answers_per_step))


CHANGES: dict[str, Callable[[Config], Config]] = {
    EASQ: lambda config: config,
    "nothing expected of likes": nothing_expected,
    "at most 1000 replays": replays(1_000),
    "at most 6 replays": replays(6),
    "without counts of answers": without_answer_counts,
    "without adapters": without_lora,
    "counts smoothed by 5": smoothing(5.0),
    "counts smoothed by 20": smoothing(20.0),
    "64 answers per step": more_answers,
    "earlier warm-up and confidence": earlier_warmup,
    # Except that answers are drawn by today's rule, the least replayed first.
    "earlier default": lambda config: earlier_warmup(without_answer_counts(nothing_expected(replays(1_000)(config)))),
}
FEW = {"nothing expected of likes", "at most 1000 replays", "at most 6 replays", "earlier warm-up and confidence"}
"""Changes that matter where answers are few."""
MANY = {"counts smoothed by 5", "counts smoothed by 20", "64 answers per step"}
"""Changes that matter where answers are many."""


def changes_at(place: Place) -> list[str]:
    """Changes that are compared at a place."""
    left_out = MANY if place.density < 100 else FEW if place.density > 100 else FEW | MANY
    return [name for name in CHANGES if name not in left_out]


def cells(seeds: list[int]) -> list[Cell]:
    made = []
    for seed in seeds:
        for name, place in PLACES.items():
            base = seeded(place.config(), seed)
            made.append(base_cell([FAMILIES[added] for added in ADDED], base, name))
            made += [
                Cell(variant=change, setting=name, config=CHANGES[change](base), fuse=SATISFACTION_WEIGHTS)
                for change in changes_at(place)
            ]
    return made


def gains(priced: Priced) -> dict[str, Any]:
    return {f"at {price:g}%": estimate_values(priced.gain(price)) for price in PRICES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps finished runs, so that the same call continues")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="easq-default-") as temporary:
        folder = args.folder or Path(temporary)
        with opened(folder, study="default_choices", budget="full", resume=True) as store:
            runs, failed = Runner(store, jobs=args.jobs).run(cells(args.seeds))
    found, rows = StudyComparison(runs), []
    for name, place in PLACES.items():
        labels = {added: FAMILIES[added].labels(name) for added in ADDED}
        for change in changes_at(place):
            labels[change] = [f"{fused_variant(change, weight)} {name}" for weight in SATISFACTION_WEIGHTS]
        rows += [{"place": name, "row": row, **gains(Priced.of(found, of_row))} for row, of_row in labels.items()]
    places = {name: dataclasses.asdict(place) for name, place in PLACES.items()}
    publish(
        {"benchmark": "default_choices", "seeds": args.seeds, "places": places, "rows": rows, **hardware()}, args.out
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
