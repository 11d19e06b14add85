"""Study `frontier`: how much satisfaction does each method of alignment gain at an equal price in engagement?

A method is a family of points, which differ in one weight (`easq_rec/tools/studies/families.py`). Families are compared
by their gain at a given price (`easq_rec/tools/studies/price.py`). All points of `easq`, and of every other method with
a satisfaction tower that is served, come from one training.

Controls: `without_any_answers` reads no answer; `shuffled_answers` compares permuted answers; `half_targets` is
`with_dense` with a reference without preferences, which only pulls the scores of a request together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ, FAMILIES, MethodFamily, base_cell
from easq_rec.tools.studies.grid import BASE, BY_USER, Cell, seeded
from easq_rec.tools.studies.partner import ITEM_PRIOR
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
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Verdict

SMALL = (EASQ, "label_weights", ITEM_PRIOR, "action_ranker", "shared_bottom", "without_any_answers")
"""Families at the small budget, with two points each."""
PRICE = PRICES[0]
OVER_USERS = (
    "Gains and their differences have intervals over training seeds and over held-out users, which are resampled; with "
    "one seed, over users only. Changes of single points have t intervals over training seeds."
)


def families(budget: Budget, names: Sequence[str] = ()) -> list[MethodFamily]:
    """The compared families.

    Args:
        names: families besides `easq`; empty: all of the budget.
    """
    chosen = [EASQ, *names] if names else list(SMALL if budget == "small" else FAMILIES)
    found = [FAMILIES[name] for name in dict.fromkeys(chosen)]
    return [family.few() for family in found] if budget == "small" else found


def study(names: Sequence[str] = ()) -> Study:
    """The study of some families, see `families`."""
    return Study(
        name="frontier",
        question="How much satisfaction does each method of alignment gain at an equal price in engagement?",
        cells=lambda base, seeds, budget: _cells(base, seeds, families(budget, names)),
        conclude=lambda found, budget: _conclude(found, budget, families(budget, names)),
    )


def _cells(base: Config, seeds: Sequence[int], compared: Sequence[MethodFamily]) -> list[Cell]:
    chosen = [family for family in compared if family.fits(base)]
    cells = []
    for seed in seeds:
        there = seeded(base, seed)
        cells += [base_cell(chosen, there), *(cell for family in chosen for cell in family.cells(there))]
    if base.data.path is None:
        return cells
    # The cells of a data set rank the same users.
    return [dataclasses.replace(cell, arguments=(*cell.arguments, BY_USER)) for cell in cells]


def _conclude(found: StudyComparison, budget: Budget, compared: Sequence[MethodFamily]) -> Findings:
    trained = found.runs(BASE)
    fitting = [family for family in compared if not trained or family.fits(trained[0].cell.config)]
    priced = {
        metric: {family.name: Priced.of(found, family.labels(), metric) for family in fitting} for metric in GAINED
    }
    results = {metric: results_of(fitting, of_metric) for metric, of_metric in priced.items()}
    gains = priced["satisfaction"]
    return Findings(
        verdict=Verdict(
            claim=f"At a price of {PRICE:g}% engagement NDCG@5, easq gains more satisfaction NDCG@5 than every "
            "baseline",
            checks=lead_checks(gains, [family for family in fitting if family.role == "baseline"]),
            budget=budget,
        ),
        notes=[
            *_notes(fitting, gains),
            *_left_out([family.name for family in compared if family not in fitting]),
            *([OVER_USERS] if gains[EASQ].resampled else []),
            "Every family has the same number of points, and all are mixed with main_only: the gain at a price is that "
            "of the best mixture of two of them.",
            ENVELOPES,
        ],
        plots={FILES[metric]: price_figure(of_metric, metric) for metric, of_metric in results.items()},
        tables=[gain_table(results), point_table(results)],
        extra={"prices": {metric: [one.values() for one in of_metric] for metric, of_metric in results.items()}},
    )


def _notes(fitting: Sequence[MethodFamily], gains: dict[str, Priced]) -> list[str]:
    notes = []
    baselines = {family.name: gains[family.name] for family in fitting if family.role == "baseline"}
    ranked = best(baselines)
    if ranked and gains[EASQ].by_world:
        lead = gains[EASQ].lead(gains[ranked[0]], PRICE)
        notes.append(
            f"Best baseline at {PRICE:g}%: {ranked[0]}, {baselines[ranked[0]].gain(PRICE).text()}; easq "
            f"{gains[EASQ].gain(PRICE).text()}, a difference of {lead_text(lead)}. It "
            "is chosen and compared on the same values, which favours it."
        )
        notes += [
            f"easq less {family.name} at {PRICE:g}%: {lead_text(gains[EASQ].lead(gains[family.name], PRICE))}."
            for family in fitting
            if family.role == "control" and gains[family.name].by_world
        ]
    return notes


def _left_out(names: Sequence[str]) -> list[str]:
    """A note about families that the data do not allow."""
    if not names:
        return []
    return [f"Left out, because the data lack the outcomes that they need, such as likes: {', '.join(names)}."]


STUDY = study()
