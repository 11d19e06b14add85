"""Study `map`: in which worlds does a questionnaire pay, and which method makes the most of it?

Three properties of World 2 vary, which a team can measure on its own log:

- how much a like says about satisfaction (`world.like_slope`; follows keep their proportion to likes),
- how much of satisfaction is the video's (`world.item_share`),
- how many answers there are (`world.density`).

At each place of the grid, methods are compared by their gain at an equal price. Worlds of a seed that differ only in
the number of answers have the same requests, so a method that reads no answers is trained once for all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from easq_rec.config import Config, World
from easq_rec.config.recipes import with_world
from easq_rec.tools.studies.asked_cell import PREFIX, PROGRAM
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ, FAMILIES, MethodFamily, base_cell
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.map_view import LEGEND, PRICE, MapPlace, map_figure, map_table
from easq_rec.tools.studies.partner import (
    ACTION_RANKER,
    ACTION_RANKER_AND_ANSWERS,
    ANSWER_PRIOR,
    ITEM_PRIOR,
    PRIORS,
    Addition,
)
from easq_rec.tools.studies.price import POINTS, Priced, best
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of the three properties, each ascending."""

    like_slopes: tuple[float, ...]
    item_shares: tuple[float, ...]
    densities: tuple[float, ...]

    def settings(self) -> list[tuple[float, float]]:
        """(like_slope, item_share) of all worlds with different requests."""
        return list(itertools.product(self.like_slopes, self.item_shares))


GRIDS: dict[Budget, Grid] = {
    "small": Grid(like_slopes=(1.3,), item_shares=(0.16,), densities=(300.0, 1_000.0)),
    "full": Grid(like_slopes=(0.2, 1.3), item_shares=(0.05, 0.4), densities=(10.0, 100.0, 1_000.0)),
    "large": Grid(like_slopes=(0.2, 1.3, 2.5), item_shares=(0.05, 0.16, 0.4), densities=(10.0, 100.0, 1_000.0)),
}
"""0.2, 1.3 and 2.5: likes that say almost nothing, as much as in the paper's Figure 3, and twice that. 0.05 and 0.4:
less and more than the 0.16 of MovieLens. Densities: about 200, 2,000 and 20,000 answers at 40,000 requests."""
METHODS = (
    EASQ,
    "label_weights",
    ITEM_PRIOR,
    ANSWER_PRIOR,
    ACTION_RANKER,
    ACTION_RANKER_AND_ANSWERS,
    "shared_bottom",
    "shared_bottom_evidence",
    "without_any_answers",
)
"""Families that are compared. Four baselines read answers: `shared_bottom`, the best of them in study `frontier`; the
same with L_evidence and the counts of answers that `easq` reads; the average answer, which gains where answers are
many; and that together with a ranker of likes."""
FOLLOWS = World.follow_slope / World.like_slope
"""Slope of follows relative to that of likes."""


def families(budget: Budget) -> list[MethodFamily]:
    """The compared families, with few points at the small budget."""
    chosen = [FAMILIES[name] for name in METHODS]
    return [family.few() for family in chosen] if budget == "small" else chosen


def world_at(world: World, like_slope: float, item_share: float, density: float) -> World:
    """The world of a place. The questionnaire has its own random stream, so densities have the same requests."""
    return dataclasses.replace(
        world,
        like_slope=like_slope,
        follow_slope=FOLLOWS * like_slope,
        item_share=item_share,
        density=density,
        questionnaire_seed=0,
    )


def reads_answers(family: MethodFamily, base: Config) -> bool:
    """Whether a point of the family depends on answers."""
    if family.kind == "added":
        prior = Addition(partner=family.name, weight=1.0).prior
        return prior is not None and PRIORS[prior] != "actions"
    return any(cell.config.reads_answers for cell in family.cells(base))


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    base, grid = with_world(base, 2), GRIDS[budget]
    chosen = families(budget)
    cells = []
    for seed, (slope, share) in itertools.product(seeds, grid.settings()):
        for density in grid.densities:
            there = seeded(dataclasses.replace(base, world=world_at(base.world, slope, share, density)), seed)
            if density == grid.densities[0]:
                shared = [family for family in chosen if not reads_answers(family, there)]
                cells += _cells_of(shared, there, _setting(slope, share))
            own = [family for family in chosen if reads_answers(family, there)]
            cells += map(_measured, _cells_of(own, there, _setting(slope, share, density)))
    return cells


def _cells_of(chosen: Sequence[MethodFamily], base: Config, setting: str) -> list[Cell]:
    """Cells of families, and that of `main_only`, which is also served with the scores that some of them add."""
    return [base_cell(chosen, base, setting), *(cell for family in chosen for cell in family.cells(base, setting))]


def _measured(cell: Cell) -> Cell:
    """The cell of `easq` also measures its world's questionnaire."""
    return dataclasses.replace(cell, program=PROGRAM) if cell.variant == EASQ else cell


def _setting(slope: float, share: float, density: float | None = None) -> str:
    shown = f"like {slope:g}, item {share:g}"
    return shown if density is None else f"{shown}, answers {density:g}"


def places(found: StudyComparison, budget: Budget) -> list[MapPlace]:
    """All places of the grid."""
    grid = GRIDS[budget]
    return [
        _place(found, slope, share, density, budget) for slope, share in grid.settings() for density in grid.densities
    ]


def _place(found: StudyComparison, slope: float, share: float, density: float, budget: Budget) -> MapPlace:
    here, everywhere = _setting(slope, share, density), _setting(slope, share)
    priced = {}
    for family in families(budget):
        # Labels of cells that read no answers do not have the density.
        labels = family.labels(here)
        priced[family.name] = Priced.of(found, labels if found.runs(labels[0]) else family.labels(everywhere))
    gains = {name: family.gain(PRICE) for name, family in priced.items() if family.by_world}
    ranked = best(priced, PRICE)
    other = next((name for name in ranked if name != EASQ), "")
    densest = f"{EASQ} {_setting(slope, share, GRIDS[budget].densities[-1])}"
    return MapPlace(
        like_slope=slope,
        item_share=share,
        density=density,
        answers=found.mean(f"{EASQ} {here}", f"{PREFIX}answers"),
        like_log_odds=found.mean(densest, f"{PREFIX}like_log_odds"),
        gains=gains,
        winner=ranked[0] if ranked and gains[ranked[0]].value > 0 else BASE,
        other=other,
        lead=priced[EASQ].lead(priced[other] if other else Priced(by_world={}), PRICE),
    )


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    all_places, grid = places(found, budget), GRIDS[budget]
    slope, density = grid.like_slopes[0], grid.densities[-1]
    silent = [place for place in all_places if place.like_slope == slope and place.density == density]
    ahead = [place for place in all_places if place.lead.low > 0]
    behind = [place for place in all_places if place.lead.high < 0]
    return Findings(
        verdict=Verdict(
            claim=f"Where likes say least about satisfaction (like_slope {slope:g}) and answers are many "
            f"(density {density:g}), easq gains more at a price of {PRICE:g}% engagement than the best other method",
            checks=[
                Check(
                    what=f"gain of easq less that of {place.other or 'another method'} at item_share "
                    f"{place.item_share:g}",
                    measured=place.lead,
                    wanted="above",
                    threshold=0.0,
                    unit=f" {POINTS}",
                )
                for place in silent
            ],
            budget=budget,
        ),
        notes=[
            f"easq gains more than the best other method, with 95% confidence, at {len(ahead)} of {len(all_places)} "
            f"places, and less at {len(behind)}.",
            "The best other method is chosen and compared on the same values, which favours it.",
            "Methods that read no answers are trained once per like_slope and item_share.",
            LEGEND,
        ],
        plots={"map.png": map_figure(all_places)},
        tables=[map_table(all_places)],
        extra={"map": [place.values() for place in all_places]},
    )


STUDY = Study(
    name="map",
    question="In which worlds does a questionnaire pay, and which method makes the most of it?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
    budgets=("small", "full", "large"),
    only_version=2,
)
