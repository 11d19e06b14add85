"""Study `ab`: an online experiment in the simulated world, in which rankings affect later behaviour.

Every arm is trained on the log of a world and then serves users who stay, return or leave depending on their
satisfaction (`easq_rec/tools/simulation/online.py`); each night it trains on the day. The users of a world are split at
random into two halves of equal size; one arm serves one half, and the other arm serves the other half.

A difference of one percent is small compared with the difference between two halves of a few thousand users, which is
why real experiments use millions of users. Here the experiment runs twice, the second time with the halves exchanged,
and all draws except the ranker's choices are the same in both runs (common random numbers): who opens the app, the
candidates, and the user behaviour. So differences between the halves cancel in the difference of two arms, and so does
noise where both arms act alike. No other adjustment is made.

The rankers read no counts: the requests of the simulated days have none.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from easq_rec.config import Config
from easq_rec.config.counts import without_counts
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.simulation.online import Experiment
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison, estimate_values
from easq_rec.tools.studies.grid import BASE, Cell, seeded
from easq_rec.tools.studies.online_cell import DAY, PROGRAM, WEEK, settings
from easq_rec.tools.studies.plots import courses, frontier, grouped
from easq_rec.tools.studies.study import Findings, Study
from easq_rec.tools.studies.verdict import Check, Verdict

AGAIN = f"{BASE}, again"
"""A/A: the base with another training seed. Its difference from the base is only noise."""
OTHER_SEED = 1_000
METRICS = {
    "stay_s": "app stay time, s per user-day",
    "watch_s": "watch time, s per user-day",
    "lt7": "LT7, days active of 7",
    "likes": "likes per user-day",
    "satisfaction": "true grade of long views",
    "answers": "answers per user-day",
}
"""Metrics of the measured week with their titles. Every user counts on each day, active or not."""
DRAWN = ("stay_s", "watch_s", "lt7", "likes", "satisfaction")
COURSES = {"active": "active users, %", "stay_s": METRICS["stay_s"], "satisfaction": METRICS["satisfaction"]}
"""Metrics that are stored and plotted by day."""
STAY, LT7 = 0.5, 0.2
"""Claimed minimum gains of `easq` in app stay time and in LT7, in percent. They were set before any measurement: small
gains that would still justify a second tower in a large app."""
FUSED = 0.5
EXPERIMENTS: dict[Budget, Experiment] = {"small": Experiment(warmup_days=0, requests=2), "full": Experiment()}


def _cells(base: Config, seeds: Sequence[int], budget: Budget) -> list[Cell]:
    # The days that an arm serves have no counts.
    base = dataclasses.replace(base, schema=without_counts(base.schema))
    cells = []
    for seed in seeds:
        mine = seeded(VARIANTS[BASE](base), seed)
        again = dataclasses.replace(mine, trainer=dataclasses.replace(mine.trainer, seed=seed + OTHER_SEED))
        arms: dict[str, tuple[Config, float | None]] = {
            BASE: (mine, None),
            AGAIN: (again, None),
            "easq": (seeded(base, seed), None),
        }
        if budget == "full":
            arms[f"easq, fused {FUSED:g}"] = seeded(base, seed), FUSED
            arms["paper"] = seeded(VARIANTS["paper"](base), seed), None
        for variant, (config, fuse) in arms.items():
            cells.append(
                Cell(
                    variant=variant,
                    config=config,
                    keep=tuple(f"{DAY}{name}" for name in COURSES),
                    program=PROGRAM,
                    arguments=(settings(EXPERIMENTS[budget], fuse),),
                )
            )
    return cells


def _conclude(found: StudyComparison, budget: Budget) -> Findings:
    arms = [label for label in found.labels if label != BASE]
    changes = {
        label: {metric: found.relative(label, f"{WEEK}{metric}") for metric in METRICS}
        for label in dict.fromkeys([*arms, "easq", AGAIN])
    }
    checks: list[Check] = []
    for metric, name, threshold in (("stay_s", "app stay time", STAY), ("lt7", "LT7", LT7)):
        what = f"{name} of easq against {BASE}"
        checks.append(Check(what=what, measured=changes["easq"][metric], wanted="above", threshold=threshold))
    for metric, name in (("stay_s", "app stay time"), ("lt7", "LT7")):
        what = f"{name} of {BASE} trained again against {BASE}"
        checks.append(Check(what=what, measured=changes[AGAIN][metric], wanted="around", threshold=0.0))
    days = {label: {name: _by_day(found, label, name) for name in COURSES} for label in found.labels}
    panels = {
        title: {label: list(enumerate(days[label][name], 1)) for label in days} for name, title in COURSES.items()
    }
    groups = {label: [changes[label][metric] for metric in DRAWN] for label in arms}
    names = [METRICS[metric].split(",")[0] for metric in DRAWN]
    experiment = EXPERIMENTS[budget]
    title = f"Simulated experiment, measured week, relative to {BASE}"
    figures = {"ab.png": grouped(title, names, groups, xlabel="change in %")} if groups else {}
    return Findings(
        verdict=Verdict(
            claim=f"In the simulated experiment easq gains at least {STAY:+g}% app stay time and {LT7:+g}% LT7 over "
            f"{BASE}, and {BASE} trained again differs from {BASE} in neither",
            checks=checks,
            budget=budget,
        ),
        notes=[
            f"The experiment lasts {experiment.days} days, of which the last 7 are measured. It runs twice, the "
            "second time with the two halves of the users exchanged, under common random numbers.",
            "Offline metrics are those of the policy score after training on the log, for all arms.",
            "The dynamics of coming, staying and leaving are assumptions of the simulator, documented in "
            "easq_rec/tools/simulation/online.py.",
        ],
        plots={
            **figures,
            "days.png": courses("Day by day, mean over worlds", panels, xlabel="day of the experiment"),
            "frontier.png": frontier(found.rows()),
        },
        tables=[_table(found)],
        extra={
            "ab": {
                "arms": [
                    {"label": label, "metrics": {name: _finite(found.mean(label, f"{WEEK}{name}")) for name in METRICS}}
                    for label in found.labels
                ],
                "differences": [
                    {
                        "arm": label,
                        "against": BASE,
                        "metric": metric,
                        "unit": "worlds",
                        "change": estimate_values(changes[label][metric]),
                    }
                    for label in arms
                    for metric in METRICS
                ],
                "days": {
                    label: {name: [_finite(value) for value in values] for name, values in by_metric.items()}
                    for label, by_metric in days.items()
                },
            }
        },
    )


def _table(found: StudyComparison) -> str:
    """The measured week in Markdown: the mean of each arm, and its change against the base."""
    lines = ["| arm | " + " | ".join(f"{title} | Δ" for title in METRICS.values()) + " |"]
    lines.append("|---" + "|---" * (2 * len(METRICS)) + "|")
    for label in found.labels:
        cells = [
            f"{found.mean(label, f'{WEEK}{name}'):.3f} | {found.relative(label, f'{WEEK}{name}').text(digits=2)}"
            for name in METRICS
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_day(found: StudyComparison, label: str, name: str) -> list[float]:
    """A metric on each day of the experiment: the mean over worlds."""
    values: defaultdict[int, list[float]] = defaultdict(list)
    for run in found.runs(label):
        for day, value in run.history.get(f"{DAY}{name}", []):
            values[day].append(value)
    return [math.fsum(same) / len(same) for _, same in sorted(values.items())]


def _finite(value: float) -> Any:
    return value if math.isfinite(value) else None


STUDY = Study(
    name="ab",
    question="How does an aligned ranker affect the users that it serves, and itself by training on their behaviour?",
    cells=_cells,
    conclude=_conclude,
    worlds_only=True,
)
