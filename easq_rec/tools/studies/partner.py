"""Scores that a cell adds to its policy score in further rankings, without another cell.

A partner is a prior of the item, or a second ranker: a variant that the cell also trains, on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from easq_rec.config.variants import VARIANTS

ITEM_PRIOR, ANSWER_PRIOR, ANSWER_EFFECTS = "item_prior", "answer_prior", "answer_effects"
ACTION_RANKER = "action_ranker"
ACTION_RANKER_AND_ANSWERS = f"{ACTION_RANKER}+{ANSWER_PRIOR}"
"""Two partners at once: what users like and what they answered, each by its own model, as a team would add them."""
PRIORS: dict[str, Literal["actions", "answers", "answer_effects"]] = {
    ITEM_PRIOR: "actions",
    ANSWER_PRIOR: "answers",
    ANSWER_EFFECTS: "answer_effects",
}
"""Partners that are not trained (`easq_rec.serving.prior_counts`), and what each is made of."""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A partner's score with its weight. Its text is an argument of the cell's program and a key of its results."""

    partner: str
    """One of `PRIORS`, the name of a variant, or `VARIANT+PRIOR` for both with the same weight."""
    weight: float

    def __post_init__(self) -> None:
        first, plus, last = self.partner.partition("+")
        assert first in VARIANTS or (first in PRIORS and not plus), self.partner
        assert not plus or last in PRIORS, self.partner

    @property
    def variant(self) -> str | None:
        """The variant whose policy score is added."""
        first = self.partner.partition("+")[0]
        return first if first in VARIANTS else None

    @property
    def prior(self) -> str | None:
        """The prior that is added."""
        last = self.partner.rpartition("+")[2]
        return last if last in PRIORS else None

    def __str__(self) -> str:
        return f"{self.partner}={self.weight:g}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The inverse of `str`; None for a plain number, which is a weight of the reference score."""
        partner, equals, weight = text.partition("=")
        return cls(partner=partner, weight=float(weight)) if equals else None
