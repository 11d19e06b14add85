"""Study `worth`: does the questionnaire tell something that behaviour does not, and what is it worth?

Trains no ranker. Answers are predicted by a ridge logistic regression from behaviour, from earlier answers and from
both, and the difference is what answers add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from easq_rec.config import World
from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.tools.studies.base import WORTH_VERSION, Budget
from easq_rec.tools.studies.store import Store
from easq_rec.tools.studies.verdict import SMALL
from easq_rec.tools.studies.worth import present
from easq_rec.tools.studies.worth.answered import DISSATISFIED, OTHER, SATISFIED, Answered, read_answers
from easq_rec.tools.studies.worth.columns import Chosen, names, opened
from easq_rec.tools.studies.worth.curve import DIFFERENCE, Curve, learning_curves
from easq_rec.tools.studies.worth.decision import Decision, VerdictBasis, decide, evidence_values
from easq_rec.tools.studies.worth.measure import Measured, by_time, by_user, enough, measure
from easq_rec.tools.studies.worth.past import bucket_minutes, past_behaviour
from easq_rec.tools.studies.worth.responders import AskedImpressions, Responders

QUESTION = "Do answers tell something that behaviour does not, and what are they worth?"
WORLDS: dict[Budget, World] = {
    "small": World(version=WORTH_VERSION, requests=4_000, users=500, videos=1_000, history=10, density=1_000.0),
    "full": World(version=WORTH_VERSION, density=1_000.0),
}


@dataclass(frozen=True, kw_only=True)
class Worth:
    """The results of the study."""

    chosen: Chosen
    answered: Answered
    minutes: int
    """Length of the buckets of time."""
    measured: Sequence[Measured]
    """By time and by user; a split with too few answers is left out."""
    curves: Sequence[Curve]
    who: Responders
    evidence: VerdictBasis
    decision: Decision

    def notes(self, budget: Budget) -> list[str]:
        """Notes for reading the figures."""
        classes = [int((self.answered.class_A == code).sum()) for code in (SATISFIED, DISSATISFIED, OTHER)]
        keys = ", ".join(names(self.chosen.keys, self.chosen.schema))
        return [
            *([SMALL] if budget == "small" else []),
            f"{len(self.answered):,} answers: {classes[0]:,} satisfied, {classes[1]:,} dissatisfied, {classes[2]:,} "
            "others, which count as half in the means of earlier answers and are not predicted.",
            f"Behaviour: {', '.join(self.chosen.outcomes)}. Means by {keys}. Context: "
            f"{', '.join(self.answered.context) or 'none'}.",
            f"What happened in the same {self.minutes:,} minutes is not known yet.",
            *present.responder_notes(self.who),
        ]

    @property
    def tables(self) -> dict[str, str]:
        """Markdown tables by heading."""
        found = {}
        if self.measured:
            found["What tells whether an answer is satisfied"] = present.information_table(self.measured)
        if self.curves:
            found["Learning curve, before the view, by time"] = present.curve_table(self.curves)
        found["Answers by behaviour of the impression"] = present.pattern_table(self.who)
        if self.who.differences:
            found["Users who answer"] = present.difference_table(self.who)
        return found

    @property
    def figures(self) -> dict[str, Figure]:
        """By file name."""
        return present.figures(self.measured, self.curves)

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "decision": self.decision.values() | {"evidence": evidence_values(self.evidence)},
            "worth": present.values(self.measured, self.curves, self.who),
        }


def world(budget: Budget, store: Store) -> str:
    """A generated world of version 2."""
    config = WORLDS[budget]
    print(f"world of version {config.version}, {config.requests:,} requests", flush=True)
    return str(store.world(config))


def run(location: files.Location, schema: FeatureSchema, *, say: Callable[[str], None] = lambda _: None) -> Worth:
    """Reads a data directory once and measures everything.

    Args:
        say: told what is being done.

    Raises:
        UserError: a dataset or column is missing, a row is bad, or there are no answers of both classes.
    """
    chosen, requests, answers = opened(location, schema)
    answered = read_answers(chosen, answers, location)
    minutes, impressions = bucket_minutes(answered), AskedImpressions(chosen)
    say(f"{len(answered):,} answers; reading {len(requests):,} requests")
    behaviour = past_behaviour(chosen, answered, requests, minutes=minutes, see=impressions.add)
    who = impressions.responders(answered)
    measured, curves = [], []
    for split in (by_time(answered), by_user(answered)):
        if enough(answered, split):
            say(f"held out {split.name}: {int(split.test_A.sum()):,} answers")
            measured.append(measure(answered, behaviour, split, minutes=minutes))
            if split.name == "by time":
                say("learning curve")
                curves = learning_curves(answered, behaviour, split, minutes=minutes)
    evidence = evidence_of(answered, measured, curves, who)
    return Worth(
        chosen=chosen,
        answered=answered,
        minutes=minutes,
        measured=measured,
        curves=curves,
        who=who,
        evidence=evidence,
        decision=decide(evidence),
    )


def evidence_of(
    answered: Answered, measured: Sequence[Measured], curves: Sequence[Curve], who: Responders
) -> VerdictBasis:
    """What the verdict rests on."""
    by_name = {one.split.name: one for one in measured}
    time, user = by_name.get("by time"), by_name.get("by user")
    adds = time.adds() if time is not None else {}
    by_source = {curve.source: curve for curve in curves}
    doubled = potential = None
    if by_source and np.isfinite(by_source["both"].gains[2].value):
        both, difference = by_source["both"], by_source[DIFFERENCE]
        doubled = both.gains[2].estimate(both.held_out)
        potential = (difference.levels[-1].mean + difference.gains[4]).estimate(difference.held_out)
    return VerdictBasis(
        answers=int(answered.labelled_A.sum()),
        adds=adds.get("explained"),
        adds_auc=adds.get("auc"),
        adds_within=adds.get("within"),
        adds_to_others=user.adds()["explained"] if user is not None else None,
        doubled=doubled,
        potential=potential,
        responders=who,
    )
