"""Study `frontier`: how much satisfaction does each method of alignment gain, and at which cost in engagement?

Each family varies one weight: that of L_dense for `easq`, that of the answer loss for `direct`, and that of the
reference score in the served score for families whose reference does not steer the policy.

`easq` has two controls: answers permuted among the answered candidates, also where they set the weights of evidence;
and a reference without preferences, with which L_dense only pulls the scores of a request together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.losses import Dense, Direct
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import Budget, with_losses
from easq_rec.tools.studies.comparison import StudyComparison, fused_series
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import frontier
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

DEFAULT = 0.3
DENSE: dict[Budget, tuple[float, ...]] = {"small": (DEFAULT,), "full": (0.15, DEFAULT, 0.45, 0.6)}
"""Weights, including the default."""
SHUFFLED, HALF = "easq, answers shuffled", "easq, targets 1/2"
DIRECT: dict[Budget, tuple[float, ...]] = {"small": (0.3,), "full": (0.3, 1.0)}
SHARING: dict[Budget, tuple[str, ...]] = {"small": ("shared_bottom",), "full": ("shared_bottom", "mmoe", "ple")}
FUSED: dict[Budget, tuple[float, ...]] = {"small": (0.5,), "full": (0.2, 0.3, 0.5, 1.0)}
"""Weights of the reference score in fused serving."""
GAIN, PRICE = 15.0, -3.0
"""Claimed minimum gain of `easq` in satisfaction NDCG@5, and claimed bound on its change of engagement NDCG@5, in
percent."""


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    direct = VARIANTS["direct"](base)
    easq = {f"easq {weight:g}": weight for weight in DENSE[budget]}
    answers = {f"direct {weight:g}": weight for weight in DIRECT[budget]}
    fused = {name: VARIANTS[name](base) for name in ("without_dense", *SHARING[budget])}
    variants = {BASE: VARIANTS[BASE](base)}
    variants |= {name: with_losses(base, dense=Dense(weight=weight)) for name, weight in easq.items()}
    variants |= {name: with_losses(direct, direct=Direct(weight=weight)) for name, weight in answers.items()}
    variants |= {
        SHUFFLED: dataclasses.replace(base, replay=dataclasses.replace(base.replay, shuffled="all")),
        HALF: with_losses(base, dense=Dense(target="half")),
    }
    curve = {name: ("easq, L_dense", weight) for name, weight in easq.items()}
    curve |= {name: ("direct", weight) for name, weight in answers.items()}
    # Weight 0 is only the policy score.
    curve |= {name: (fused_series(name), 0.0) for name in fused}
    return grid(variants | fused, seeds, curve=curve, fuse=dict.fromkeys(fused, FUSED[budget]))


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    checks: list[Check] = []
    for metric, threshold in (("satisfaction", GAIN), ("engagement", PRICE)):
        change = found.change(f"easq {DEFAULT:g}", metric)
        what = f"{metric} NDCG@5 of easq against {BASE}"
        checks.append(Check(what=what, measured=change, wanted="above", threshold=threshold))
    return Findings(
        verdict=Verdict(
            claim=f"easq, serving only the policy score, gains at least {GAIN:+g}% satisfaction NDCG@5 and keeps "
            f"engagement NDCG@5 above {PRICE:g}%",
            checks=checks,
            budget=budget,
        ),
        plots={"frontier.png": frontier(rows)},
    )


STUDY = Study(
    name="frontier",
    question="How much satisfaction does each method of alignment gain, and at which cost in engagement?",
    cells=_cells,
    conclude=_conclude,
)
