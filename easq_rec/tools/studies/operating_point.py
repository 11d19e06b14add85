"""Study `operating-point`: what does alignment gain where the paper asks: one answer per ten thousand impressions?

The world has a million requests, so that this rate leaves some hundreds of answers. Training reads the log once, in the
order of time, and every answer is admitted when the stream reaches its time, as in a service. Users and videos grow
with the log, so that each of them is as rare as in the other studies.

Source of the rate: arXiv 2601.20215; the prompt is shown on 0.5% of triggered impressions, and 2% of them answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.recipes import counted_world_schema
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ, FAMILIES, MethodFamily, base_cell
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.partner import ANSWER_PRIOR, ITEM_PRIOR
from easq_rec.tools.studies.price import PRICES, Priced, best
from easq_rec.tools.studies.price_view import (
    ENVELOPES,
    FILES,
    GAINED,
    gain_table,
    lead_checks,
    lead_text,
    point_table,
    price_figure,
    results_of,
)
from easq_rec.tools.studies.store import Run
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

SCALE: dict[Budget, int] = {"small": 1, "full": 25}
"""Requests, users and videos, in multiples of those of the base."""
METHODS = (EASQ, "label_weights", ITEM_PRIOR, ANSWER_PRIOR, "without_any_answers")
"""Families, with two points each: the trainings are long."""
PRICE = PRICES[0]
ADMITTED, RARER = "replay_admitted", "replay_rarer_class"
"""Metrics by step: answers that were admitted, and those of the class with fewer."""


def families() -> list[MethodFamily]:
    """The compared families."""
    return [FAMILIES[name].few() for name in METHODS]


def scaled(base: Config, factor: int, *, density: float) -> Config:
    """The base on a larger world, in one epoch in the order of time.

    Args:
        factor: of requests, users and videos.
        density: rate of answers, in multiples of the paper's.
    """
    world = base.world
    world = dataclasses.replace(
        world,
        requests=factor * world.requests,
        users=factor * world.users,
        videos=factor * world.videos,
        density=density,
    )
    dim = next(table.dim for table in base.schema.tables if table.name == "video")
    return dataclasses.replace(
        base,
        world=world,
        schema=counted_world_schema(world, dim=dim),
        data=dataclasses.replace(base.data, shuffle=False),
        trainer=dataclasses.replace(base.trainer, epochs=1),
    )


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    # The small budget keeps the rate of its world: there would be no answer at that of the paper.
    there = scaled(base, SCALE[budget], density=base.world.density if budget == "small" else 1.0)
    cells = []
    for seed in seeds:
        of_seed = seeded(there, seed)
        cells.append(base_cell(families(), of_seed))
        for family in families():
            cells += [_watched(cell) for cell in family.cells(of_seed)]
    return cells


def _watched(cell: Cell) -> Cell:
    """The cell of `easq` also keeps how many answers were there, by step."""
    return dataclasses.replace(cell, keep=(ADMITTED, RARER)) if cell.variant == EASQ else cell


def begin_of_steering(run: Run) -> float | None:
    """Share of the training after which the satisfaction score counts; None: never."""
    needed = run.cell.config.losses.warmup_per_class
    course = run.history.get(RARER, [])
    first = next((step for step, count in course if count >= needed), None)
    return None if first is None else first / course[-1][0]


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    compared = families()
    priced = {metric: {one.name: Priced.of(found, one.labels(), metric) for one in compared} for metric in GAINED}
    results = {metric: results_of(compared, of_metric) for metric, of_metric in priced.items()}
    gains = priced["satisfaction"]
    return Findings(
        verdict=Verdict(
            claim=f"With one answer per ten thousand triggered impressions, easq gains more satisfaction NDCG@5 at a "
            f"price of {PRICE:g}% engagement NDCG@5 than main_only and every other method",
            checks=[
                Check(
                    what=f"gain of easq at {PRICE:g}%",
                    measured=gains[EASQ].gain(PRICE),
                    wanted="above",
                    threshold=0.0,
                ),
                *lead_checks(gains, [family for family in compared if family.name != EASQ]),
            ],
            budget=budget,
        ),
        notes=[*_notes(found, gains), ENVELOPES],
        plots={FILES[metric]: price_figure(of_metric, metric) for metric, of_metric in results.items()},
        tables=[gain_table(results), point_table(results)],
        extra={"prices": {metric: [one.values() for one in of_metric] for metric, of_metric in results.items()}},
    )


def _notes(found: StudyComparison, gains: dict[str, Priced]) -> list[str]:
    notes = []
    for run in found.runs(EASQ):
        course = run.history.get(ADMITTED, [])
        begin = begin_of_steering(run)
        when = "never" if begin is None else f"after {begin:.0%} of the training"
        answers = f"{course[-1][1]:,.0f}" if course else "no"
        notes.append(f"{run.cell.block}: {answers} answers in training; the satisfaction score counts {when}.")
    ranked = best({name: priced for name, priced in gains.items() if name != EASQ})
    if ranked and gains[EASQ].by_world:
        lead = gains[EASQ].lead(gains[ranked[0]], PRICE)
        notes.append(
            f"Best other method at {PRICE:g}%: {ranked[0]}. easq less it: {lead_text(lead)}. It is chosen and compared "
            "on the same values, which favours it."
        )
    notes.append(f"All families are relative to {BASE} of the same world.")
    return notes


STUDY = Study(
    name="operating-point",
    question="What does alignment gain with one answer per ten thousand triggered impressions?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
)
