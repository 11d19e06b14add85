"""Study `stability`: does the policy diverge from its reference, and what prevents it?

The paper's check (arXiv 2601.20215) is the KL of sigmoid(policy score) from sigmoid(reference score), which should stay
below 0.5 nats. The study plots it with two other quantities, because BPR does not fix the level of the policy score, so
the KL can be large although all rankings agree. A growing spread of the policy score, and a DPO margin that grows
faster on training answers than on held-out ones, show that the policy memorises answers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

from easq_rec.config import Config
from easq_rec.config.losses import DPO
from easq_rec.config.variants import VARIANTS
from easq_rec.evaluation.mean_interval import Estimate, t_interval
from easq_rec.tools.studies.base import Budget, with_losses
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, grid
from easq_rec.tools.studies.plots import courses, frontier
from easq_rec.tools.studies.store import Run
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

NATS = 0.5
DIVERGENCE, SPREAD = "divergence", "policy_std"
TRAINED, HELD_OUT = "answers_train_margin", "answers_holdout_margin"
GAP = "margin gap"
TITLES = {
    DIVERGENCE: "KL of policy from reference, nats",
    SPREAD: "standard deviation of the policy score",
    GAP: "DPO margin, trained less held-out answers",
}


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    every = 50 if budget == "full" else 10
    base = dataclasses.replace(
        base,
        evaluation=dataclasses.replace(base.evaluation, every_steps=every, max_requests=512),
        logging=dataclasses.replace(base.logging, every_steps=every // 5),
    )
    paper = VARIANTS["paper"](base)
    variants = {
        BASE: VARIANTS[BASE](base),
        "easq": base,
        "paper": paper,
        "paper, reference smoothed": with_losses(paper, reference_smoothing=0.99),
        "paper, divergence bounded": with_losses(paper, divergence_bound=NATS),
    }
    if budget == "full":
        variants["slate_softmax"] = with_losses(
            VARIANTS["with_dpo"](base), dpo=DPO(weight=1.0, policy="slate_softmax", beta=1.0)
        )
    kept = (DIVERGENCE, SPREAD, TRAINED, HELD_OUT)
    return [dataclasses.replace(cell, keep=kept) for cell in grid(variants, seeds)]


def course(run: Run, quantity: str) -> list[tuple[int, float]]:
    """(step, value) of a quantity over a run."""
    if quantity != GAP:
        return list(run.history.get(quantity, []))
    trained, held_out = (dict(run.history.get(name, [])) for name in (TRAINED, HELD_OUT))
    return [(step, value - held_out[step]) for step, value in trained.items() if step in held_out]


def mean_course(runs: Sequence[Run], quantity: str) -> list[tuple[int, float]]:
    """The mean over runs, at the steps that all of them have."""
    values: defaultdict[int, list[float]] = defaultdict(list)
    for run in runs:
        for step, value in course(run, quantity):
            values[step].append(value)
    return [(step, math.fsum(found) / len(found)) for step, found in sorted(values.items()) if len(found) == len(runs)]


def highest(runs: Sequence[Run], quantity: str) -> Estimate:
    """The maximum of a run, averaged over runs."""
    return t_interval(max(value for _, value in points) for run in runs if (points := course(run, quantity)))


def last(runs: Sequence[Run], quantity: str) -> Estimate:
    """The final value of a run, averaged over runs."""
    return t_interval(points[-1][1] for run in runs if (points := course(run, quantity)))


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    labels = [label for label in found.labels if label != BASE]
    panels = {
        title: {label: mean_course(found.runs(label), quantity) for label in labels}
        for quantity, title in TITLES.items()
    }
    return Findings(
        verdict=Verdict(
            claim=f"The KL of the policy from its reference stays below {NATS:g} nats in the paper's literal form",
            checks=[
                Check(
                    what="largest KL of paper",
                    measured=highest(found.runs("paper"), DIVERGENCE),
                    wanted="below",
                    threshold=NATS,
                    unit=" nats",
                )
            ],
            budget=budget,
        ),
        notes=[
            f"{label}: KL at most {highest(found.runs(label), DIVERGENCE).text(' nats', 2)}, at the end the policy "
            f"score's standard deviation is {last(found.runs(label), SPREAD).text('', 2)} and the margin gap "
            f"{last(found.runs(label), GAP).text('', 2)}."
            for label in labels
        ],
        plots={
            "stability.png": courses("Over training, mean over worlds", panels, marks={TITLES[DIVERGENCE]: NATS}),
            "frontier.png": frontier(found.rows()),
        },
    )


STUDY = Study(
    name="stability",
    question="Does the policy diverge from its reference, and what prevents it?",
    cells=_cells,
    conclude=_conclude,
)
