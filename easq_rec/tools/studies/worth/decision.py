"""The verdict: ask more, ask others, enough answers, do not ask, or too few answers to tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from easq_rec.evaluation.mean_interval import NORMAL, Estimate
from easq_rec.tools.studies.comparison import estimate_values
from easq_rec.tools.studies.worth.measure import HELD_OUT, LEAST
from easq_rec.tools.studies.worth.responders import MOST, Responders

Outcome = Literal["ask more", "ask others", "enough answers", "do not ask", "too few answers to tell"]

WORTH = 0.5
"""Smallest information that is worth asking for: percent of the log loss of the base rate. At an AUC of 0.7 that is
about 0.006 AUC, near 0.5 it is about 0.04."""
FEW_USERS = 0.5
"""Answers come from few users where the most active tenth gives more than this share."""
FEW_ITEMS, OVER = 0.5, 1.2
"""Answers are about few items where the most shown tenth has more than this share, and more than `OVER` times its share
of the impressions: popular items have many answers because they are shown often."""
DIFFERENT = 0.5
"""Users who answer differ strongly where a mean behaviour lies further than this from that of all users, in standard
deviations: a medium effect in Cohen's words."""
MOST_TIMES = 100.0
"""No estimate of the answers that are needed goes beyond this many times those there are."""


@dataclass(frozen=True, kw_only=True)
class VerdictBasis:
    """What the verdict rests on. Information is explained log loss before the view, in percent of the base rate's."""

    answers: int
    """Answers that are satisfied or dissatisfied."""
    adds: Estimate | None
    """What answers add to behaviour, by time; None: there are too few answers to measure it."""
    adds_auc: Estimate | None
    adds_within: Estimate | None
    """The same in AUC, and in AUC within users."""
    adds_to_others: Estimate | None
    """What answers of others add, by user."""
    doubled: Estimate | None
    """What twice as many answers would add to all answers."""
    potential: Estimate | None
    """What four times as many answers would add to behaviour."""
    responders: Responders | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict with its reasons."""

    outcome: Outcome
    why: Sequence[str]
    """Sentences with the numbers that the verdict rests on."""
    needed: int | None = None
    """More answers that an interval that decides would need, about."""

    def text(self) -> str:
        return "\n".join([self.outcome, *(f"  {reason}" for reason in self.why)])

    def markdown(self) -> str:
        return "\n".join([f"**{self.outcome}**", "", *(f"- {reason}" for reason in self.why)])

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "outcome": self.outcome,
            "why": list(self.why),
            "more_answers_needed": self.needed,
            "thresholds": {"information_percent": WORTH, "few_users": FEW_USERS, "few_items": FEW_ITEMS,
                           "different_users": DIFFERENT},
        }  # fmt: skip


def decide(found: VerdictBasis) -> Decision:
    """The verdict.

    Answers add information if the intervals of explained log loss and of AUC lie above 0: calibration alone is no
    information for a ranker. They do not if the interval lies below `WORTH` and would also with four times as many
    answers: a few answers that add nothing yet may be too few to learn from.
    """
    if found.adds is None or found.doubled is None or found.potential is None:
        needed = max(_planned() - found.answers, LEAST)
        few = (
            f"There are {found.answers:,} satisfied and dissatisfied answers, and at least {LEAST} of each kind are "
            f"needed in the fitted and in the held-out part. An interval that can tell {WORTH:g}% takes about "
            f"{_planned():,} answers: {needed:,} more."
        )
        return Decision(outcome="too few answers to tell", why=[few], needed=needed)
    adds, doubled, potential = found.adds, found.doubled, found.potential
    why = [_what_it_adds(found), _what_more_adds(doubled, potential)]
    rises = doubled.value >= WORTH and doubled.low > 0
    if adds.high < WORTH and potential.high < WORTH:
        if found.answers < _planned():
            needed = _planned() - found.answers
            reason = (
                f"The intervals are narrow only because so few answers hardly change a prediction: to see {WORTH:g}% "
                f"takes about {_planned():,} answers, {needed:,} more."
            )
            return Decision(outcome="too few answers to tell", why=[*why, reason], needed=needed)
        reason = f"Both intervals end below {WORTH:g}%, the least that is worth asking for."
        return Decision(outcome="do not ask", why=[*why, reason])
    if adds.low > 0 and _above_zero(found.adds_auc) and (adds.high >= WORTH or rises):
        others = _others(found)
        if others:
            return Decision(outcome="ask others", why=[*why, *others])
        if rises:
            return Decision(outcome="ask more", why=[*why, f"So the curve still rises by more than {WORTH:g}%."])
        reason = f"So the curve is flat: doubling adds less than {WORTH:g}%, or not with confidence."
        if doubled.high >= WORTH:
            reason += f" Up to {doubled.high:+.1f}% is not excluded."
        return Decision(outcome="enough answers", why=[*why, reason])
    # The interval that is still open decides how many answers are missing.
    later = adds.high < WORTH
    needed = needed_answers(found.answers, potential if later else adds)
    which = "of what four times as many answers would add " if later else ""
    reason = (
        f"The interval {which}neither lies above 0, in AUC too, nor ends below {WORTH:g}%. If the value stays where it "
        f"is, an interval that decides takes about {needed:,} more answers ({needed / found.answers:.1f} times those "
        "there are)."
    )
    return Decision(outcome="too few answers to tell", why=[*why, reason], needed=needed)


def _above_zero(estimate: Estimate | None) -> bool:
    return estimate is None or estimate.low > 0


def needed_answers(answers: int, estimate: Estimate) -> int:
    """About how many more answers bring the interval above 0 or below `WORTH`. It narrows with their square root."""
    half = (estimate.high - estimate.low) / 2
    distance = max(estimate.value, WORTH - estimate.value)
    times = (half / distance) ** 2 if math.isfinite(half) else MOST_TIMES
    return math.ceil(answers * min(max(times - 1, 0.1), MOST_TIMES))


def _planned() -> int:
    """Answers for an interval of half the width `WORTH`, before anything is measured.

    The difference of two log losses has twice its own mean as variance, where the better model is right.
    """
    nats = WORTH / 100 * math.log(2)
    return math.ceil(2 * nats * (NORMAL / nats) ** 2 / HELD_OUT / 100) * 100


def _what_it_adds(found: VerdictBasis) -> str:
    assert found.adds is not None
    parts = [f"Before the view, behaviour and answers explain {found.adds.text()} more than behaviour alone"]
    if found.adds_auc is not None:
        parts.append(f"; the AUC is higher by {found.adds_auc.text('', 3)}")
    if found.adds_within is not None and math.isfinite(found.adds_within.value):
        parts.append(f", within users by {found.adds_within.text('', 3)}")
    if found.adds_to_others is not None:
        parts.append(f". For users who never answered, the answers of others add {found.adds_to_others.text()}")
    return "".join(parts) + "."


def _what_more_adds(doubled: Estimate, potential: Estimate) -> str:
    return (
        f"Twice as many answers would add {doubled.text()} more. With four times as many, answers would add "
        f"{potential.text()} to behaviour."
    )


def _others(found: VerdictBasis) -> list[str]:
    """Why other people should be asked."""
    reasons = []
    others, who = found.adds_to_others, found.responders
    if others is not None and others.high < WORTH:
        reasons.append(
            f"The answers tell about the people who gave them, and less than {WORTH:g}% about others: ask people who "
            "have not answered."
        )
    if who is None:
        return reasons
    if who.of_users[0] > FEW_USERS:
        reasons.append(
            f"The most active {MOST:.0%} of the users give {who.of_users[0]:.0%} of the answers, and have "
            f"{who.of_users[1]:.0%} of the impressions: ask the others."
        )
    if who.of_items[0] > max(FEW_ITEMS, OVER * who.of_items[1]):
        reasons.append(
            f"The most shown {MOST:.0%} of the items have {who.of_items[0]:.0%} of the answers, and "
            f"{who.of_items[1]:.0%} of the impressions: ask about the others."
        )
    different = [one for one in who.differences if one.difference.low > DIFFERENT or one.difference.high < -DIFFERENT]
    if different:
        named = ", ".join(f"{one.behaviour} {one.difference.text('', 2)}" for one in different)
        reasons.append(
            f"The users who answer behave differently, by more than {DIFFERENT:g} standard deviations: {named}."
        )
    return reasons


def evidence_values(found: VerdictBasis) -> dict[str, Any]:
    """The evidence as JSON values."""
    numbers = {
        "adds": found.adds,
        "adds_auc": found.adds_auc,
        "adds_within": found.adds_within,
        "adds_to_others": found.adds_to_others,
        "doubled": found.doubled,
        "potential": found.potential,
    }
    return {"answers": found.answers} | {
        name: estimate_values(one) if one is not None else None for name, one in numbers.items()
    }
