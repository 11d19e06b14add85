"""Scores that a cell adds to its policy score in further rankings, without another cell.

A partner is a prior of the item, or a second ranker: a variant that the cell also trains, on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from easq_rec.config.variants import VARIANTS

ITEM_PRIOR, ANSWER_PRIOR = "item_prior", "answer_prior"
PRIORS: dict[str, Literal["actions", "answers"]] = {ITEM_PRIOR: "actions", ANSWER_PRIOR: "answers"}
"""Partners that are counted, not trained (`easq_rec.serving.item_prior`), and what is counted."""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A partner's score with its weight. Its text is an argument of the cell's program and a key of its results."""

    partner: str
    """One of `PRIORS`, or the name of a variant."""
    weight: float

    def __post_init__(self) -> None:
        assert self.partner in PRIORS or self.partner in VARIANTS, self.partner

    def __str__(self) -> str:
        return f"{self.partner}={self.weight:g}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The inverse of `str`; None for a plain number, which is a weight of the reference score."""
        partner, equals, weight = text.partition("=")
        return cls(partner=partner, weight=float(weight)) if equals else None
