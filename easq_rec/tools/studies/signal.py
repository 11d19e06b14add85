"""Study `signal`: do answers agree with behaviour? The paper's Figure 3 (arXiv 2601.20215), on any data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from easq_rec.config import World
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.behaviour_lift import CODES, Lift, Signal
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.plots import grouped
from easq_rec.tools.studies.store import Store
from easq_rec.tools.studies.verdict import Check, Verdict

QUESTION = "Do people who say that they are satisfied also behave as if they were?"
ABOVE, BELOW = 30.0, -20.0
"""In percent. The paper finds +46% to +80% after Satisfied and -83% to -25% after Dissatisfied."""
USUAL = 0.5
"""A behaviour of more than this share of the impressions is not part of the verdict. Its rate after Satisfied can be at
most 1: with 70% on average, the lift could not exceed +43% even if all satisfied people behaved so. A lift near that
limit says little about a behaviour, and one below `ABOVE` does not say that it disagrees."""
WORLDS: dict[Budget, World] = {
    "small": World(requests=4_000, users=500, videos=1_000, history=10, density=1_000.0),
    # Ten times the answers of recipe quickstart: their number affects not the lift but its interval.
    "full": World(density=1_000.0),
}


def worlds(budget: Budget, seeds: Sequence[int], store: Store, version: Literal[1, 2]) -> list[str]:
    """Generated worlds of a version, one per seed; their requests are pooled."""
    locations = []
    for seed in seeds:
        world = dataclasses.replace(WORLDS[budget], seed=seed, version=version)
        print(f"world {seed}, {world.requests:,} requests", flush=True)
        locations.append(str(store.world(world)))
    return locations


def verdict(found: Signal, budget: Budget) -> Verdict:
    """Checks that every behaviour that can depend on the answer is beyond both thresholds.

    Usual behaviours are left out, because they may not be able to reach `ABOVE`: see `USUAL`.
    """
    return Verdict(
        claim=f"Every behaviour of at most half of the {average(found)} is more than {ABOVE:g}% more frequent after "
        f"Satisfied, and more than {-BELOW:g}% less frequent after Dissatisfied, than among them",
        checks=[
            Check(
                what=f"{lift.behaviour} after {lift.answer}",
                measured=lift.change,
                wanted="above" if lift.answer == "satisfied" else "below",
                threshold=ABOVE if lift.answer == "satisfied" else BELOW,
            )
            for lift in found.lifts
            if lift.average <= USUAL
        ],
        budget=budget,
    )


def average(found: Signal) -> str:
    """The impressions with which answers are compared."""
    return "triggered impressions" if found.triggered else "all impressions"


def notes(found: Signal) -> list[str]:
    """Notes for reading the lifts."""
    if found.triggered:
        why = (
            "Answers are compared with triggered impressions, about which the questionnaire may ask: relative to all "
            "impressions even a random answer would show a lift, because asked people had already watched."
        )
    else:
        why = (
            "Answers are compared with all impressions, because the data lack watch_ms or duration_ms, which determine "
            "the triggered impressions. Part of each lift is that asked people had already watched."
        )
    fixed = [
        f"{name} is left out: all or none of these impressions have it, or all that were answered."
        for name in found.fixed
    ]
    usual = [
        f"{name} is not part of the verdict: {average:.0%} of these impressions have it, so its lift after Satisfied "
        f"is at most {100 * (1 / average - 1):+.0f}%."
        for name, average in {lift.behaviour: lift.average for lift in found.lifts}.items()
        if average > USUAL
    ]
    missing = [f"{name} is null in {count:,} of them, which are left out." for name, count in found.missing.items()]
    return [why, *fixed, *usual, *missing]


def table(found: Signal) -> str:
    """The lifts in Markdown."""
    lines = ["| behaviour | on average | answer | answers | rate | lift |", "|---|---|---|---|---|---|"]
    for lift in found.lifts:
        cells = (lift.behaviour, f"{lift.average:.2%}", lift.answer, f"{lift.answers:,}", f"{lift.rate:.2%}")
        lines.append(f"| {' | '.join(cells)} | {lift.change.text()} |")
    return "\n".join(lines)


def values(found: Signal) -> list[dict[str, Any]]:
    """The lifts as JSON values."""
    return [_values(lift) | {"average_over": average(found)} for lift in found.lifts]


def _values(lift: Lift) -> dict[str, Any]:
    return {
        "behaviour": lift.behaviour,
        "answer": lift.answer,
        "answers": lift.answers,
        "occurrences": lift.occurrences,
        "rate": lift.rate if lift.answers else None,
        "average": lift.average,
        "lift_percent": estimate_values(lift.change),
    }


def figures(found: Signal) -> dict[str, Any]:
    """Bars of the lifts, with the thresholds as dashed lines."""
    names = list(dict.fromkeys(lift.behaviour for lift in found.lifts))
    groups = {f"after {answer}": [lift.change for lift in found.lifts if lift.answer == answer] for answer in CODES}
    title = f"Behaviour by answer, against {average(found)}"
    return {"signal.png": grouped(title, names, groups, xlabel="lift in %", marks=(BELOW, ABOVE))}
