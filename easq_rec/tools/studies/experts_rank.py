"""Studies `experts` and `rank`: do the sizes of the satisfaction pathway matter?

One size at a time differs from the default. The claim is that no other size is worth a change of the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.variants import VARIANTS
from easq_rec.errors import UserError
from easq_rec.tools.studies.base import Budget, with_experts, with_model
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import curves, frontier
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

MAIN: dict[Budget, tuple[int, ...]] = {"small": (6,), "full": (2, 4, 6, 8, 12)}
SATISFACTION: dict[Budget, tuple[int, ...]] = {"small": (2,), "full": (2, 3, 4, 6, 8)}
K1, K2 = 1, 1
"""The default. The paper has 6 and 2."""
BY_MAIN, BY_SATISFACTION = f"K1 (K2 = {K2})", f"K2 (K1 = {K1})"
RANKS: dict[Budget, tuple[int, ...]] = {"small": (2,), "full": (2, 4, 16, 32)}
RANK = 8
GAIN = 1.0
"""Gain in percent from which another size is worth it."""


def _experts_cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    counts = {_experts(K1, K2): (K1, K2)}
    counts |= {_experts(k1, K2): (k1, K2) for k1 in MAIN[budget]}
    counts |= {_experts(K1, k2): (K1, k2) for k2 in SATISFACTION[budget]}
    variants = {BASE: VARIANTS[BASE](base)}
    variants |= {name: with_experts(base, main=k1, satisfaction=k2) for name, (k1, k2) in counts.items()}
    curve = {
        name: (BY_SATISFACTION, float(k2)) if k1 == K1 else (BY_MAIN, float(k1)) for name, (k1, k2) in counts.items()
    }
    return grid(variants, seeds, curve=curve)


def _experts(k1: int, k2: int) -> str:
    return f"K1={k1} K2={k2}"


def _experts_findings(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    default = next((row for row in rows if row.label == _experts(K1, K2)), None)
    # The default is a point of both curves.
    both = [] if default is None else [dataclasses.replace(default, series=BY_MAIN, x=float(K1))]
    points = [*both, *rows]
    return Findings(
        verdict=_verdict(found, _experts(K1, K2), "number of experts", budget),
        plots={"frontier.png": frontier(points), "experts.png": curves(points, xlabel="experts")},
    )


def _rank_cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    lora = base.model.lora
    if lora is None:
        raise UserError(f"recipe {base.recipe!r} has no adapters (model.lora), whose rank this study varies")
    ranks = sorted((RANK, *RANKS[budget]))
    variants = {BASE: VARIANTS[BASE](base)}
    # alpha stays: the product of an adapter is scaled by alpha / rank, as in LoRA (arXiv 2106.09685).
    variants |= {_rank(rank): with_model(base, lora=dataclasses.replace(lora, rank=rank)) for rank in ranks}
    return grid(variants, seeds, curve={_rank(rank): ("easq", float(rank)) for rank in ranks})


def _rank(rank: int) -> str:
    return f"r={rank}"


def _rank_findings(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    return Findings(
        verdict=_verdict(found, _rank(RANK), "rank of the adapters", budget),
        plots={
            "frontier.png": frontier(rows),
            "rank.png": curves(rows, xlabel="rank r of the adapters", logarithmic=True),
        },
    )


def _verdict(found: StudyComparison, default: str, size: str, budget: Budget) -> Verdict:
    others = [label for label in found.labels if label not in (BASE, default)]
    return Verdict(
        claim=f"No other {size} gains {GAIN:+g}% satisfaction NDCG@5 over the default, {default}",
        checks=[
            Check(
                what=f"satisfaction NDCG@5 of {label} against {default}",
                measured=found.change(label, "satisfaction", default),
                wanted="below",
                threshold=GAIN,
            )
            for label in others
        ],
        budget=budget,
    )


EXPERTS = Study(
    name="experts",
    question="Do the numbers of experts of the main tower (K1) and of the satisfaction tower (K2) matter?",
    cells=_experts_cells,
    conclude=_experts_findings,
)
RANK_STUDY = Study(
    name="rank",
    question="Does the rank of the adapters matter?",
    cells=_rank_cells,
    conclude=_rank_findings,
)
