"""Metrics of predicted answers, with a bootstrap over users that all predictions share.

Shape suffixes: A held-out answers, U their users, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.columns import Rows
from easq_rec.data.counts import Floats
from easq_rec.evaluation.mean_interval import CONFIDENCE, Estimate
from easq_rec.evaluation.metrics.intervals import LEAST_USERS, AnswerScores, UserSums
from easq_rec.tools.studies.worth.regression import losses

RESAMPLES = 500
BLOCK_CELLS = 1 << 22
"""Weights of a block of resamples, at most; bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """A number and its values in the resamples."""

    value: float
    value_B: Floats

    def __sub__(self, other: Replicated) -> Replicated:
        return Replicated(value=self.value - other.value, value_B=self.value_B - other.value_B)

    def __add__(self, other: Replicated) -> Replicated:
        return Replicated(value=self.value + other.value, value_B=self.value_B + other.value_B)

    def times(self, factor: float) -> Replicated:
        return Replicated(value=factor * self.value, value_B=factor * self.value_B)

    def over(self, other: Replicated) -> Replicated:
        """The quotient."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.float64(self.value) / np.float64(other.value))
            return Replicated(value=value, value_B=self.value_B / other.value_B)

    def estimate(self, count: int) -> Estimate:
        """The value with its percentile interval.

        Args:
            count: the answers it was measured on.
        """
        known_B = self.value_B[np.isfinite(self.value_B)]
        if not len(known_B) or not np.isfinite(self.value):
            return Estimate(value=self.value, low=-np.inf, high=np.inf, count=count)
        low, high = np.quantile(known_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(value=self.value, low=float(low), high=float(high), count=count)


class HeldOutAnswers:
    """Held-out answers, and every metric as a function of predictions."""

    def __init__(self, user_A: Rows, label_A: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.user_U, self._place_A = np.unique(user_A, return_inverse=True)
        self._user_A, self.label_A = user_A, label_A
        self._resamples, self._seed = resamples, seed

    def __len__(self) -> int:
        return len(self.label_A)

    @cached_property
    def weight_BU(self) -> NDArray[np.float32]:
        """The number of times that each user is drawn; the first row is the sample itself."""
        users = len(self.user_U)
        generator = np.random.default_rng(self._seed)
        weight_BU = np.empty((self._resamples + 1, users), np.float32)
        weight_BU[0] = 1
        for row in range(1, len(weight_BU)):
            weight_BU[row] = np.bincount(generator.integers(0, users, users), minlength=users)
        return weight_BU

    def loss(self, predicted_A: Floats) -> Replicated:
        """Mean cross-entropy in nats."""
        return self._mean(losses(predicted_A, self.label_A), np.ones(len(self)))

    def auc(self, predicted_A: Floats) -> Replicated:
        """Over all pairs of a satisfied and a dissatisfied answer; 0.5 for equal predictions."""
        answers = AnswerScores(score_A=predicted_A, satisfied_A=self.label_A > 0, user_A=self._user_A)
        sums = UserSums(self.user_U, {}, answers)
        rows = max(1, BLOCK_CELLS // max(sums.widest, 1))
        blocks = [
            sums.metrics(self.weight_BU[begin : begin + rows].astype(np.float64))[:, -1]
            for begin in range(0, len(self.weight_BU), rows)
        ]
        return _replicated(np.concatenate(blocks))

    def within_users(self, predicted_A: Floats) -> Replicated:
        """GAUC: the AUC of each user with answers of both classes, weighted by the user's answers; NaN if they are
        fewer than `LEAST_USERS`."""
        good_U, bad_U, won_U = user_pairs(self._place_A, self.label_A, predicted_A, len(self.user_U))
        pairs_U = good_U * bad_U
        if np.count_nonzero(pairs_U) < LEAST_USERS:
            return Replicated(value=np.nan, value_B=np.full(self._resamples, np.nan))
        weight_U = np.where(pairs_U > 0, good_U + bad_U, 0.0)
        return self._by_user(weight_U * won_U / np.maximum(pairs_U, 1), weight_U)

    def _mean(self, top_A: Floats, bottom_A: Floats) -> Replicated:
        users = len(self.user_U)
        return self._by_user(_summed(self._place_A, top_A, users), _summed(self._place_A, bottom_A, users))

    def _by_user(self, top_U: Floats, bottom_U: Floats) -> Replicated:
        with np.errstate(divide="ignore", invalid="ignore"):
            return _replicated((self.weight_BU @ top_U) / (self.weight_BU @ bottom_U))


def user_pairs(place_A: Rows, label_A: Floats, score_A: Floats, users: int) -> tuple[Floats, Floats, Floats]:
    """(satisfied answers, dissatisfied answers, pairs that the score orders rightly, ties half) of each user, (U,)."""
    order = np.lexsort((score_A, place_A))
    user_A, good_A, score_A = place_A[order], label_A[order] > 0, score_A[order]
    starts = np.r_[True, (user_A[1:] != user_A[:-1]) | (score_A[1:] != score_A[:-1])]
    # Ties of a user are one level. Bad answers before a level, less those before the user, are below it.
    level_A = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    levels, user_L = len(first), user_A[first]
    good_L, bad_L = _summed(level_A, good_A, levels), _summed(level_A, ~good_A, levels)
    good_U, bad_U = _summed(user_L, good_L, users), _summed(user_L, bad_L, users)
    before_U = np.cumsum(bad_U) - bad_U
    below_L = np.cumsum(bad_L) - bad_L - before_U[user_L]
    return good_U, bad_U, _summed(user_L, good_L * (below_L + bad_L / 2), users)


def _summed(place: Rows, values: NDArray[Any], length: int) -> Floats:
    """The sum of the values at each place."""
    return np.bincount(place, weights=values, minlength=length).astype(np.float64, copy=False)


def _replicated(value_B: Floats) -> Replicated:
    """From the value of the sample itself, followed by those of the resamples."""
    value_B = np.asarray(value_B, np.float64)
    return Replicated(value=float(value_B[0]), value_B=value_B[1:])
