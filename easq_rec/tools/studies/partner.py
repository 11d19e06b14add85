"""Scores that a cell adds to its policy score in further rankings, without another cell.

A partner is the item prior, or a second ranker: a variant that the cell also trains, on the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from easq_rec.config.variants import VARIANTS

ITEM_PRIOR = "item_prior"
"""The partner that is counted, not trained (`easq_rec.serving.item_prior`)."""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A partner's score with its weight. Its text is an argument of the cell's program and a key of its results."""

    partner: str
    """`ITEM_PRIOR`, or the name of a variant."""
    weight: float

    def __post_init__(self) -> None:
        assert self.partner == ITEM_PRIOR or self.partner in VARIANTS, self.partner

    def __str__(self) -> str:
        return f"{self.partner}={self.weight:g}"

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The inverse of `str`; None for a plain number, which is a weight of the reference score."""
        partner, equals, weight = text.partition("=")
        return cls(partner=partner, weight=float(weight)) if equals else None
