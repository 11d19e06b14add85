"""A prior of items by author, from counts of what users did or said, without any training.

A video's rate is shrunk to the rate of its author's other videos, and that to the overall rate
(`easq_rec.answers.rates`). The prior is the log odds of that rate: policy scores are log odds, too, and the same factor
of a rate counts the same for rare and for frequent actions. It is standardised over the candidates of the training
period, so a weight means the same on every log. `easq_rec.serving.prior_counts` counts.

Legend: N impressions, I items with their authors, A authors, C counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from easq_rec.answers.rates import Floats, posterior, prior_strength, shrunk
from easq_rec.data.columns import Rows

COUNTS = ("impressions", "shown", "happened", "squared")

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ItemCounts:
    """Observations of each item with its author, sorted by item and author."""

    item_I: Rows
    author_I: Rows
    impressions_I: Floats
    """Impressions, over which the prior is standardised."""
    shown_I: Floats
    """Observations: triggered impressions, or answers."""
    happened_I: Floats
    """Their sum: impressions with an action, or answers that each count between 0 (the worst) and 1 (the best)."""
    squared_I: Floats
    """The sum of their squares."""

    @classmethod
    def of(cls, item_N: Rows, author_N: Rows, *, impressions_N: Any, shown_N: Any, happened_N: Any) -> Self:
        """Counts single entries.

        Args:
            impressions_N, shown_N, happened_N: what each adds to the counts; a number stands for all of them.
        """
        given = (impressions_N, shown_N, happened_N, np.square(happened_N))
        counts = [np.broadcast_to(np.asarray(count, np.float64), item_N.shape) for count in given]
        return cls._summed(np.stack([item_N, author_N], axis=1, dtype=np.int64), np.stack(counts, axis=1))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The counts of several parts of a log."""
        listed = list(parts)
        keys = np.concatenate([np.stack([part.item_I, part.author_I], axis=1) for part in listed])
        counts = [np.stack([getattr(part, f"{name}_I") for name in COUNTS], axis=1) for part in listed]
        return cls._summed(keys, np.concatenate(counts))

    @classmethod
    def _summed(cls, keys_N2: npt.NDArray[np.int64], counts_NC: Floats) -> Self:
        keys, group = np.unique(keys_N2, axis=0, return_inverse=True)
        sums = np.zeros((len(keys), len(COUNTS)))
        np.add.at(sums, group.reshape(-1), counts_NC)
        counts = {f"{name}_I": sums[:, index] for index, name in enumerate(COUNTS)}
        return cls(item_I=keys[:, 0], author_I=keys[:, 1], **counts)

    @property
    def overall(self) -> float:
        """The overall rate, with half an observation of each kind added: it is defined and never 0 or 1."""
        return float((self.happened_I.sum() + 0.5) / (self.shown_I.sum() + 1))

    @property
    def spread(self) -> float:
        """Variance of an observation over that of binary ones of the same mean: 1 for actions."""
        shown, happened = self.shown_I.sum(), self.happened_I.sum()
        if not 0 < happened < shown:
            return 1.0
        mean = happened / shown
        return float((self.squared_I.sum() / shown - mean**2) / (mean * (1 - mean)))


class ItemPrior:
    """Standardised log odds by item and author; all 0 if rates differ by no more than chance."""

    def __init__(self, counts: ItemCounts) -> None:
        author_A, self._of_author_I = np.unique(counts.author_I, return_inverse=True)
        shown_I, happened_I, overall = counts.shown_I, counts.happened_I, counts.overall
        shown_A, happened_A = self._by_author(shown_I), self._by_author(happened_I)
        overall_A, overall_I = np.full(len(shown_A), overall), np.full(len(shown_I), overall)
        strength = prior_strength(happened_A, shown_A, overall_A, spread=counts.spread)
        rate_A = posterior(happened_A, shown_A, overall_A, strength)
        # The author's other items: the item's own impressions would count twice.
        happened_others_I = happened_A[self._of_author_I] - happened_I
        shown_others_I = shown_A[self._of_author_I] - shown_I
        expected_I = posterior(happened_others_I, shown_others_I, overall_I, strength)
        rate_I = shrunk(happened_I, shown_I, expected_I, spread=counts.spread)
        prior_I, prior_A, prior = log_odds(rate_I), log_odds(rate_A), log_odds(overall)
        mean = np.average(prior_I, weights=counts.impressions_I)
        spread = np.sqrt(np.average((prior_I - mean) ** 2, weights=counts.impressions_I))
        self._author_A = author_A
        self._items, of_item_I = np.unique(counts.item_I, return_inverse=True)
        # Ascending, as the counts are.
        self._pair_I = of_item_I * len(author_A) + self._of_author_I
        self._prior_I, self._prior_A, self._prior = (
            (value - mean) / (spread or 1.0) for value in (prior_I, prior_A, prior)
        )

    def _by_author(self, count_I: Floats) -> Floats:
        """Sums over the items of each author, (A,)."""
        return np.bincount(self._of_author_I, weights=count_I).astype(np.float64)

    def __call__(self, item_N: Rows, author_N: Rows) -> Floats:
        """The prior of candidates, (N,): of the item; of the author, if the item is unknown; of all, if both are."""
        prior_N = np.full(len(item_N), self._prior)
        author_known_N, of_author_N = _found(self._author_A, author_N)
        prior_N[author_known_N] = self._prior_A[of_author_N[author_known_N]]
        item_known_N, of_item_N = _found(self._items, item_N)
        pair_known_N, of_pair_N = _found(self._pair_I, of_item_N * len(self._author_A) + of_author_N)
        known_N = author_known_N & item_known_N & pair_known_N
        prior_N[known_N] = self._prior_I[of_pair_N[known_N]]
        return prior_N


def _found(values: Rows, wanted_N: Rows) -> tuple[Bools, Rows]:
    """(whether each wanted value is among sorted values, its place if it is), (N,) each."""
    place_N = np.searchsorted(values, wanted_N).clip(max=len(values) - 1)
    return values[place_N] == wanted_N, place_N


def log_odds(rate: Any) -> Any:
    """log(p / (1 - p)) of rates between 0 and 1, a number or an array."""
    return np.log(rate) - np.log1p(-rate)
