"""Study `trigger`: after which impressions should the questionnaire ask?

The paper (arXiv 2601.20215) asks only after more than 7 s or more than half of a video. Here both thresholds vary, one
at a time. The worlds of a seed have the same requests, and an impression gets the same answer under every rule that
asks about it, so rules differ only in the impressions that they ask about.

Prompts per impression are held equal, not prompts per triggered impression: prompts are the cost of a questionnaire, so
a rule with more triggered impressions asks about a smaller share of them. That share is set once per rule, on a sample
of the first world, as a team would set it for its app.

This study makes one assumption that other studies do not make: people who watched more respond more often. The log-odds
of an answer rise by `READINESS` over the length of a video. Without it every rule would have the same response rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config import Config, World
from easq_rec.config.variants import VARIANTS
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.world import simulate
from easq_rec.tools.studies.asked_cell import PREFIX, PROGRAM
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.plots import bars, frontier, grouped
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

Rule = tuple[float, float]
"""Seconds watched, share of the video watched: beyond either, an impression is triggered."""
PAPER: Rule = (7.0, 0.5)
RULES: dict[Budget, tuple[Rule, ...]] = {
    "small": (PAPER, (0.0, 0.5)),
    "full": (
        *((watch_s, 0.5) for watch_s in (0.0, 3.0, 7.0, 15.0, 30.0)),
        *((7.0, progress) for progress in (0.25, 0.75, 1.0)),
    ),
}
READINESS = 2.0
"""Increase of the log-odds of an answer over the length of a video: the odds grow by the factor e per half video."""
SHOWN: dict[Budget, float] = {"small": 0.75, "full": 0.5}
"""Share of triggered impressions on which the paper's rule shows the prompt; it determines those of the other rules.
Small worlds need a larger share, but rules with fewer triggered impressions need room below 1."""
MARGIN = -1.0
"""Allowed difference between the paper's rule and the best other rule, in percent of satisfaction NDCG@5."""
SAMPLE = 2_000
"""Number of requests on which the share of triggered impressions is measured."""

COLUMNS = {
    "triggered_percent": "triggered, %",
    "shown_permille": "prompts per 1,000 impressions",
    "answers": "answers",
    "response_percent": "response rate, %",
    "agreement": "AUC of the true grade between answers",
    "overlap_percent": "grades in common with all impressions, %",
    "user_correlation": "correlation over users with all impressions",
    "like_ratio": "likes, Satisfied to Dissatisfied",
    "returned_ratio": "returns, Satisfied to Dissatisfied",
}
"""Metrics of `easq_rec/tools/studies/questionnaire_stats.py` with their titles."""
DRAWN = ("triggered_percent", "response_percent", "overlap_percent")


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    rules = RULES[budget]
    base = dataclasses.replace(base, world=_world(base.world, budget))
    shares = triggered_shares(dataclasses.replace(base.world, seed=seeds[0]), rules)
    cells = []
    for seed in seeds:
        cells.append(Cell(variant=BASE, config=seeded(VARIANTS[BASE](base), seed)))
        for rule, share in zip(rules, shares, strict=True):
            # As many prompts as the paper's rule shows.
            density = base.world.density * shares[rules.index(PAPER)] / share
            world = dataclasses.replace(base.world, density=density, trigger_watch_s=rule[0], trigger_progress=rule[1])
            config = seeded(dataclasses.replace(base, world=world), seed)
            cells.append(Cell(variant=label(rule), config=config, program=PROGRAM))
    return cells


def label(rule: Rule) -> str:
    """The variant name of a rule."""
    return f"easq, {rule[0]:g} s or {rule[1]:g}"


def _world(world: World, budget: Budget) -> World:
    """The world with a separate random stream for the questionnaire, and a response that depends on watching."""
    return dataclasses.replace(
        world, density=SHOWN[budget] / world.exposure, response_progress=READINESS, questionnaire_seed=0
    )


def triggered_shares(world: World, rules: Sequence[Rule]) -> list[float]:
    """Share of impressions that each rule triggers on, in a sample of a world."""
    world = dataclasses.replace(world, requests=min(world.requests, SAMPLE))
    model = create_model(world)
    parts = list(simulate(model))
    watch = np.concatenate([part.watch_ms for part in parts])
    duration = model.latents.duration_ms[np.concatenate([part.video for part in parts])]
    return [
        float(Questionnaire(trigger_watch_s=watch_s, trigger_progress=progress).triggered(watch, duration).mean())
        for watch_s, progress in rules
    ]


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    rows = found.rows()
    there = [rule for rule in RULES[budget] if found.runs(label(rule))]
    others = sorted((rule for rule in there if rule != PAPER), key=lambda rule: -_value(found, rule, "satisfaction"))
    best = others[0] if others else None
    against = label(best) if best is not None else "another rule"
    figures = {
        COLUMNS[name]: [t_interval(found.by_world(label(rule), f"{PREFIX}{name}")) for rule in there] for name in DRAWN
    }
    names = [label(rule).removeprefix("easq, ") for rule in there]
    return Findings(
        verdict=Verdict(
            claim=f"Asking after 7 s or half of a video, as the paper does, is not worse by more than {-MARGIN:g}% "
            "satisfaction NDCG@5 than the best other rule",
            checks=[
                Check(
                    what=f"satisfaction NDCG@5 of {label(PAPER)} against {against}",
                    measured=found.change(label(PAPER), "satisfaction", against),
                    wanted="above",
                    threshold=MARGIN,
                )
            ],
            budget=budget,
        ),
        notes=[
            "All rules show equally many prompts per impression. The best other rule is chosen and compared on the "
            "same values, which favours it.",
            f"Assumed: people who watched more respond more often, by {READINESS:g} in log-odds over a video's length.",
        ],
        plots={
            "trigger.png": bars([row for row in rows if row.label != BASE]),
            "asked.png": grouped("Impressions that a rule asks about", names, figures, xlabel="%"),
            "frontier.png": frontier(rows),
        },
        tables=[_table(found, there)],
        extra={"settings": [_setting(found, rule) for rule in there]},
    )


def _value(found: StudyComparison, rule: Rule, metric: str) -> float:
    value = found.change(label(rule), metric).value
    return -math.inf if math.isnan(value) else value


def _setting(found: StudyComparison, rule: Rule) -> dict[str, Any]:
    """A rule as JSON values: means over worlds, and the changes against the base in percent."""
    figures = {name: found.mean(label(rule), f"{PREFIX}{name}") for name in COLUMNS}
    changes = {
        f"{metric}_change_percent": found.change(label(rule), metric).value for metric in ("satisfaction", "engagement")
    }
    values = {name: value if math.isfinite(value) else None for name, value in (figures | changes).items()}
    return {"rule": label(rule), "watch_s": rule[0], "progress": rule[1], **values}


def _table(found: StudyComparison, rules: Sequence[Rule]) -> str:
    """Markdown table of the asked impressions and the quality of the answers, by rule."""
    lines = [f"| rule | {' | '.join(COLUMNS.values())} |", "|---" + "|---" * len(COLUMNS) + "|"]
    for rule in rules:
        figures = [f"{found.mean(label(rule), f'{PREFIX}{name}'):.4g}" for name in COLUMNS]
        lines.append(f"| {label(rule)} | {' | '.join(figures)} |")
    return "\n".join(lines)


STUDY = Study(
    name="trigger",
    question="When should the questionnaire ask: how much of a video must have been watched?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
)
