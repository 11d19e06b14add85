"""Study `lambda2`: which weight of the DPO loss is best?

Only the weight and the policy form of L_DPO differ between the cells. All have the paper's pathway (recipe `paper`:
adapters whose gradients reach the embeddings, no L_dense), with the paper's weight of 6 (arXiv 2601.20215).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from easq_rec.config import Config
from easq_rec.config.losses import DPO
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import Budget, with_losses
from easq_rec.tools.studies.comparison import Row, StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import curves, frontier
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

Policy = Literal["score_difference", "slate_softmax"]

WEIGHTS: dict[Budget, tuple[float, ...]] = {
    "small": (1.0, 6.0),
    "full": (0.1, 0.3, 1.0, 3.0, 6.0, 9.0, 12.0, 15.0),
}
BETA: dict[Policy, float] = {"score_difference": 0.1, "slate_softmax": 1.0}
"""Temperature of each form: the paper's for the paper's form; log-probabilities of a slate have another scale."""
PAPER = 6.0
COSTLY = -1.0
"""Losses of engagement beyond this, in percent, are reported."""


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    variants, curve = {BASE: VARIANTS[BASE](base)}, {}
    for policy, beta in BETA.items():
        for weight in WEIGHTS[budget]:
            name = _name(policy, weight)
            variants[name] = with_losses(VARIANTS["paper"](base), dpo=DPO(weight=weight, policy=policy, beta=beta))
            curve[name] = (policy, weight)
    return grid(variants, seeds, curve=curve)


def _name(policy: str, weight: float) -> str:
    return f"{policy} {weight:g}"


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    return Findings(
        verdict=Verdict(
            claim=f"With the paper's policy form and weight, score_difference and lambda2 = {PAPER:g}, satisfaction "
            "NDCG@5 is above that of main_only (+0%)",
            checks=[
                Check(
                    what=f"satisfaction NDCG@5 of {_name('score_difference', PAPER)} against {BASE}",
                    measured=found.change(_name("score_difference", PAPER), "satisfaction"),
                    wanted="above",
                    threshold=0.0,
                )
            ],
            budget=budget,
        ),
        notes=[note for policy in BETA if (note := _note(found, rows, policy))],
        plots={
            "frontier.png": frontier(rows),
            "lambda2.png": curves(rows, xlabel="weight of L_DPO (lambda2)", logarithmic=True),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a curve over the weights."""

    best: Row
    plateau: list[Row]
    """Contiguous rows around the best that are not worse with 95% confidence, paired by world."""
    degrades: Row | None
    """The first row beyond the best that is worse with 95% confidence."""
    costly: Row | None
    """The first row whose engagement is below COSTLY with 95% confidence."""


def shape(found: StudyComparison, curve: Sequence[Row]) -> Shape:
    """Finds the shape of a curve of at least one row, in the order of its weights."""
    at = max(range(len(curve)), key=lambda index: curve[index].change["satisfaction"].value)
    best = curve[at]
    worse = [found.change(row.label, "satisfaction", best.variant).high < 0 for row in curve]
    first = max((index + 1 for index in range(at) if worse[index]), default=0)
    beyond = min((index for index in range(at, len(curve)) if worse[index]), default=len(curve))
    return Shape(
        best=best,
        plateau=list(curve[first:beyond]),
        degrades=curve[beyond] if beyond < len(curve) else None,
        costly=next((row for row in curve if row.change["engagement"].high < COSTLY), None),
    )


def _note(found: StudyComparison, rows: Sequence[Row], policy: Policy) -> str | None:
    measured = [row for row in rows if row.series == policy and row.change["satisfaction"].count]
    curve = sorted(measured, key=lambda row: row.x or 0)
    if not curve:
        return None
    read = shape(found, curve)
    low, high = read.plateau[0].x, read.plateau[-1].x
    degrades = "not reached" if read.degrades is None else f"lambda2 = {read.degrades.x:g}"
    costly = "at no weight" if read.costly is None else f"first at lambda2 = {read.costly.x:g}"
    return (
        f"{policy}: satisfaction is best at lambda2 = {read.best.x:g} ({read.best.change['satisfaction'].text()}, "
        f"engagement {read.best.change['engagement'].text()}). Plateau, the weights around it that are not worse with "
        f"95% confidence: {low:g} to {high:g}. Degradation point, the first beyond it that is: {degrades}. "
        f"Engagement is below {COSTLY:g}% with 95% confidence {costly}."
    )


STUDY = Study(
    name="lambda2",
    question="How do satisfaction and engagement change with the weight of the DPO loss, by policy form?",
    cells=_cells,
    conclude=_conclude,
)
