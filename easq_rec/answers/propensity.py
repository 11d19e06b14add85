"""How likely an impression is to be answered, given its outcomes, and the weights that correct for it.

Users who liked a video may answer more readily than others. Then the answers are no random sample: those of likely
repliers count too much. An answer that weighs the inverse of its propensity (Horvitz and Thompson 1952, Rosenbaum and
Rubin 1983) stands for the impressions of its kind that nobody answered. This corrects for what outcomes show. It does
not correct for a reply that depends on satisfaction itself among impressions with the same outcomes.

The propensity of a pattern of outcomes is the share of its triggered impressions with an answer, shrunk to the overall
share (`easq_rec.answers.rates`).

Legend: N impressions, A answers, O outcomes, P patterns of outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from easq_rec.answers.rates import shrunk
from easq_rec.errors import UserError

MOST_OUTCOMES = 62
"""A pattern is a number with one bit per outcome."""

Happened = npt.NDArray[np.bool_]


def count_patterns(happened_NO: Happened) -> Counter[int]:
    """Number of impressions of each pattern of outcomes."""
    codes, counts = np.unique(_codes(happened_NO), return_counts=True)
    return Counter(dict(zip(codes.tolist(), counts.tolist(), strict=True)))


class Propensities:
    """Weights of answers by the pattern of their outcomes.

    Args:
        answered: answered impressions by pattern.
        triggered: impressions by pattern that could be answered, including those.
        most: bound on a weight: weights lie between 1 / `most` and `most`.
    """

    def __init__(self, answered: Mapping[int, int], triggered: Mapping[int, int], *, most: float) -> None:
        self._most = most
        patterns = sorted({*answered, *triggered})
        answered_P = np.array([answered.get(pattern, 0) for pattern in patterns], np.float64)
        # A log may lack some of the answered impressions.
        triggered_P = np.maximum([triggered.get(pattern, 0) for pattern in patterns], answered_P)
        weight_P = np.ones(len(patterns))
        if answered_P.sum() > 0:
            overall = answered_P.sum() / triggered_P.sum()
            weight_P = overall / shrunk(answered_P, triggered_P, np.full(len(patterns), overall))
        self._pattern_P, self._weight_P = np.array(patterns, np.int64), weight_P

    def weights(self, happened_AO: Happened) -> npt.NDArray[np.float32]:
        """Weights of answers, (A,): the overall propensity divided by that of their pattern. Their mean over the
        answers is about 1. An unknown pattern has weight 1."""
        code_A = _codes(happened_AO)
        if not len(self._pattern_P):
            return np.ones(len(code_A), np.float32)
        place_A = np.searchsorted(self._pattern_P, code_A).clip(max=len(self._pattern_P) - 1)
        weight_A = np.where(self._pattern_P[place_A] == code_A, self._weight_P[place_A], 1.0)
        return weight_A.clip(1 / self._most, self._most).astype(np.float32)


def _codes(happened_NO: Happened) -> npt.NDArray[np.int64]:
    outcomes = happened_NO.shape[1]
    if outcomes > MOST_OUTCOMES:
        raise UserError(
            f"losses.satisfaction.pairs=inverse_propensity is possible with at most {MOST_OUTCOMES} outcomes, and the "
            f"schema has {outcomes}: use pairs=equal, or fewer outcomes"
        )
    codes: npt.NDArray[np.int64] = happened_NO @ (1 << np.arange(outcomes, dtype=np.int64))
    return codes
