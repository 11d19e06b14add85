"""Intervals by a bootstrap over users: a user's requests are drawn together because they are not independent.

Each resample is a vector of weights, the number of times each user was drawn; a metric of it is a quotient of weighted
sums over users, so that all resamples of all metrics are one matrix product (computed in blocks). Two runs over the
same requests use the same resamples, so their common variation cancels in the interval of the difference.

Shape suffixes:
    R  requests
    U  users
    B  resamples of a block, or all resamples
    M  metrics
    Q  metrics that are quotients of sums
    K  calibration bins (of pairs, or of one outcome)
    A  compared answers, satisfied or dissatisfied, by ascending score
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from easq_rec.errors import UserError
from easq_rec.evaluation.metrics.by_request import CALIBRATION, MEANS, QUOTIENTS
from easq_rec.evaluation.metrics.calibration import BINS
from easq_rec.evaluation.metrics.outcomes import LOSS, OBSERVED, PREDICTED, WEIGHT, outcome_names
from easq_rec.evaluation.metrics.segments import Order, won_pairs
from easq_rec.evaluation.resampling import RESAMPLES, user_weights

Floats = NDArray[np.float64]
Method = Literal["bca", "percentile"]

METRICS = (*MEANS, *QUOTIENTS, "calibration_gap", "calibration_error", "answer_auc")
"""The metrics of every run. `UserSums.names` has those of the outcomes as well."""
CONFIDENCE = 0.95
LEAST_USERS = 10
"""Minimum number of contributing users for an interval: fewer users say little about the spread."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and the ends of its interval; NaN if undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two runs over the same requests."""

    run: float
    base: float
    difference: Interval
    """run - base."""
    relative: Interval
    """(run - base) / base."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """Scores of answered candidates, in any order."""

    score_A: Floats
    satisfied_A: NDArray[np.bool_]
    """True: satisfied, False: dissatisfied. Other answers are excluded."""
    user_A: NDArray[np.int64]
    """User id."""


class UserSums:
    """One run's sums by user, and every metric as a function of user weights.

    Args:
        user_R: user id of each request.
        columns: the columns of `request_columns`, `answer_columns` and `outcome_columns`; without a column its metric
            is undefined, and without the columns of outcomes their metrics do not exist.
        answers: answers for the AUC over all answers; their users are among `user_R`.
    """

    def __init__(
        self, user_R: NDArray[np.int64], columns: Mapping[str, NDArray[Any]], answers: AnswerScores | None = None
    ) -> None:
        self.user_U, index_R = np.unique(user_R, return_inverse=True)
        users = len(self.user_U)

        def summed(value_R: NDArray[Any]) -> Floats:
            return np.bincount(index_R, value_R, minlength=users).astype(np.float64, copy=False)

        top, bottom = [], []
        nothing_R = np.full(len(user_R), np.nan)
        for name in MEANS:
            value_R = columns.get(name, nothing_R)
            top.append(summed(np.nan_to_num(value_R)))
            bottom.append(summed(~np.isnan(value_R)))
        for over, under in QUOTIENTS.values():
            top.append(summed(columns.get(over, np.zeros(len(user_R)))))
            bottom.append(summed(columns.get(under, np.zeros(len(user_R)))))
        nothing_RK = np.zeros((len(user_R), BINS))
        predicted_RK, observed_RK, pairs_RK = (columns.get(name, nothing_RK) for name in CALIBRATION)
        gap_RK = predicted_RK - observed_RK
        quotients = [*MEANS, *QUOTIENTS, "calibration_gap"]
        top.append(summed(gap_RK.sum(1)))
        bottom.append(summed(pairs_RK.sum(1)))
        # Name, gap of each bin, and the sum of the weights, of every expected calibration error.
        errors = [("calibration_error", gap_RK, bottom[-1])]
        for name in outcome_names(columns):
            predicted_RK, observed_RK, weight_RK = (columns[f"{part}{name}"] for part in (PREDICTED, OBSERVED, WEIGHT))
            errors.append((f"outcome_calibration_error_{name}", predicted_RK - observed_RK, summed(weight_RK.sum(1))))
            if f"{LOSS}{name}" in columns:
                quotients.append(f"outcome_log_loss_{name}")
                top.append(summed(columns[f"{LOSS}{name}"]))
                bottom.append(errors[-1][2])
            quotients.append(f"outcome_ratio_{name}")
            top.append(summed(predicted_RK.sum(1)))
            bottom.append(summed(observed_RK.sum(1)))
        self._quotients = len(top)
        self._bins = [gap_RK.shape[1] for _, gap_RK, _ in errors]
        # Quotients first, then the gaps of the bins of each error.
        top += [summed(gap_R) for _, gap_RK, _ in errors for gap_R in gap_RK.T]
        bottom += [weight_U for _, _, weight_U in errors]
        self.names = (*quotients, *(name for name, _, _ in errors), "answer_auc")
        """All metrics, in the order of axis M."""
        self._top = np.stack(top, axis=1)
        self._bottom = np.stack(bottom, axis=1)
        self._answers = _AnswerPairs(answers, self.user_U) if answers is not None and len(answers.score_A) else None

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user_U)

    @property
    def widest(self) -> int:
        """Length of the longest row that a resample needs."""
        return max(len(self), self._answers.answers if self._answers is not None else 0, 1)

    def metrics(self, weight_BU: Floats) -> Floats:
        """(B, M): every metric with user u counted weight_BU[b, u] times."""
        auc_B = self._answers.auc(weight_BU) if self._answers is not None else np.full(len(weight_BU), np.nan)
        return self._assembled(weight_BU @ self._top, weight_BU @ self._bottom, auc_B)

    def jackknife(self) -> Floats:
        """(U, M): every metric without user u."""
        auc_U = self._answers.auc_without() if self._answers is not None else np.full(len(self), np.nan)
        return self._assembled(self._top.sum(0) - self._top, self._bottom.sum(0) - self._bottom, auc_U)

    def quotients(self, names: Sequence[str]) -> tuple[Floats, Floats]:
        """(U, M) each: what every user adds to the numerator and to the denominator of these metrics.

        The names are those of means and quotients: calibration errors and the AUC over all answers are neither.
        """
        columns = [self.names.index(name) for name in names]
        assert max(columns) < self._quotients, names
        return self._top[:, columns], self._bottom[:, columns]

    def contributing(self) -> NDArray[np.int64]:
        """(M,): number of users that contribute to each metric."""
        answered = self._answers.users if self._answers is not None else 0
        return np.array([*(self._bottom > 0).sum(0), answered])

    def _assembled(self, top: Floats, bottom: Floats, auc: Floats) -> Floats:
        quotients = self._quotients
        gaps = np.split(np.abs(top[:, quotients:]), np.cumsum(self._bins)[:-1], axis=1)
        sums = np.concatenate([top[:, :quotients], *(gap.sum(1, keepdims=True) for gap in gaps)], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            # 0 / 0 gives the NaN of an undefined metric.
            return np.concatenate([sums / bottom, auc[:, None]], axis=1)


class _AnswerPairs:
    """AUC over all pairs of a satisfied and a dissatisfied answer, within and across users."""

    def __init__(self, answers: AnswerScores, user_U: NDArray[np.int64]) -> None:
        order_A = np.argsort(answers.score_A, kind="stable")
        score_A = answers.score_A[order_A]
        self._satisfied_A = answers.satisfied_A[order_A]
        self._user_A = np.searchsorted(user_U, answers.user_A[order_A])
        self.answers, self._all_users = len(score_A), len(user_U)
        self.users = len(np.unique(self._user_A))
        # Ties occupy the places first to end (exclusive).
        self._first_A = np.searchsorted(score_A, score_A, side="left")
        self._end_A = np.searchsorted(score_A, score_A, side="right")
        self._within = self._pairs_within(score_A)

    def auc(self, weight_BU: Floats) -> Floats:
        """(B,): the AUC with user u counted weight_BU[b, u] times."""
        weight_BA = weight_BU[:, self._user_A]
        good, bad = self._satisfied_A, ~self._satisfied_A
        below = _running(np.where(bad, weight_BA, 0.0))
        weight_BP = weight_BA[:, good]
        won_B = (weight_BP * (below[:, self._first_A[good]] + below[:, self._end_A[good]])).sum(1) / 2
        with np.errstate(invalid="ignore"):
            return won_B / (weight_BP.sum(1) * below[:, -1])

    def auc_without(self) -> Floats:
        """(U,): the AUC without user u."""
        good, bad = self._satisfied_A.astype(np.float64), (~self._satisfied_A).astype(np.float64)
        below, above = _running(bad[None])[0], _running(good[None])[0]
        won_A = good * (below[self._first_A] + below[self._end_A]) / 2
        lost_A = bad * (good.sum() - (above[self._first_A] + above[self._end_A]) / 2)

        def of_user(value_A: Floats) -> Floats:
            return np.bincount(self._user_A, value_A, minlength=self._all_users).astype(np.float64, copy=False)

        left_U = won_A.sum() - of_user(won_A) - of_user(lost_A) + self._within
        with np.errstate(divide="ignore", invalid="ignore"):
            return left_U / ((good.sum() - of_user(good)) * (bad.sum() - of_user(bad)))

    def _pairs_within(self, score_A: Floats) -> Floats:
        """(U,): pairs won within a user's answers."""
        order = Order.of(torch.from_numpy(score_A), torch.from_numpy(self._user_A), self._all_users)
        won_A, _ = won_pairs(order, torch.from_numpy(self._satisfied_A)[order.item_N].long())
        won_U = torch.bincount(order.segment_N, won_A, minlength=self._all_users).double()
        found: Floats = won_U.numpy()
        return found


def estimates(
    sums: UserSums,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    method: Method = "bca",
) -> dict[str, Interval]:
    """Every metric of one run with its interval."""
    value_M, (replicate_BM,) = _point(sums), _replicates([sums], resamples, seed)
    enough_M = sums.contributing() >= LEAST_USERS
    return _intervals(sums.names, value_M, replicate_BM, sums.jackknife(), enough_M, confidence, method)


def differences(
    run: UserSums,
    base: UserSums,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    method: Method = "bca",
) -> dict[str, Difference]:
    """Paired differences of every metric that both runs have, absolute and relative to the base.

    Raises:
        UserError: the two runs have different users.
    """
    if not np.array_equal(run.user_U, base.user_U):
        raise UserError("the two runs were evaluated on different users: evaluate both on the same data")
    names = [name for name in run.names if name in base.names]
    ours, theirs = ([sums.names.index(name) for name in names] for sums in (run, base))
    run_M, base_M = _point(run)[ours], _point(base)[theirs]
    run_BM, base_BM = _replicates([run, base], resamples, seed)
    run_BM, base_BM = run_BM[:, ours], base_BM[:, theirs]
    run_UM, base_UM = run.jackknife()[:, ours], base.jackknife()[:, theirs]
    enough_M = np.minimum(run.contributing()[ours], base.contributing()[theirs]) >= LEAST_USERS
    absolute = _intervals(names, run_M - base_M, run_BM - base_BM, run_UM - base_UM, enough_M, confidence, method)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative_M, relative_BM, relative_UM = run_M / base_M - 1, run_BM / base_BM - 1, run_UM / base_UM - 1
    relative_M[~np.isfinite(relative_M)] = np.nan
    relative = _intervals(names, relative_M, relative_BM, relative_UM, enough_M, confidence, method)
    return {
        name: Difference(run=float(run_M[m]), base=float(base_M[m]), difference=absolute[name], relative=relative[name])
        for m, name in enumerate(names)
    }


def interval(value: float, replicate_B: Floats, jackknife_U: Floats, confidence: float, method: Method) -> Interval:
    """One interval from the bootstrap distribution.

    `percentile` uses the quantiles of the distribution. `bca` (Efron 1987) corrects them for median bias and for
    acceleration, which it estimates from the metric without each user; without an estimate (all replicates are on one
    side of the value), the quantiles are not corrected. Resamples with an undefined metric are ignored.
    """
    replicate_B = replicate_B[np.isfinite(replicate_B)]
    if not len(replicate_B) or not np.isfinite(value):
        return Interval(value=value, low=np.nan, high=np.nan)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    share = ((replicate_B < value).mean() + (replicate_B <= value).mean()) / 2
    if method == "bca" and 0 < share < 1:
        normal = NormalDist()
        bias, change = normal.inv_cdf(float(share)), _acceleration(jackknife_U)
        moved = [bias + normal.inv_cdf(float(tail)) for tail in tails]
        tails = np.array([normal.cdf(bias + z / (1 - change * z)) for z in moved])
    low, high = np.quantile(replicate_B, tails)
    return Interval(value=value, low=float(low), high=float(high))


def _acceleration(jackknife_U: Floats) -> float:
    jackknife_U = jackknife_U[np.isfinite(jackknife_U)]
    if not len(jackknife_U):
        return 0.0
    deviation_U = jackknife_U.mean() - jackknife_U
    spread = float((deviation_U**2).sum())
    return float((deviation_U**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def _intervals(
    names: Sequence[str],
    value_M: Floats,
    replicate_BM: Floats,
    jackknife_UM: Floats,
    enough_M: NDArray[np.bool_],
    confidence: float,
    method: Method,
) -> dict[str, Interval]:
    """Intervals by metric; a metric of too few users has no ends."""
    return {
        name: interval(float(value_M[m]), replicate_BM[:, m], jackknife_UM[:, m], confidence, method)
        if enough_M[m]
        else Interval(value=float(value_M[m]), low=np.nan, high=np.nan)
        for m, name in enumerate(names)
    }


def _point(sums: UserSums) -> Floats:
    """(M,): every metric of the original requests."""
    return sums.metrics(np.ones((1, len(sums))))[0]


def _replicates(samples: Sequence[UserSums], resamples: int, seed: int) -> list[Floats]:
    """(B, M) of each run, from the same resampled users."""
    widest = max(sums.widest for sums in samples)
    parts = [
        [sums.metrics(weight_BU) for sums in samples]
        for weight_BU in user_weights(len(samples[0]), resamples, seed=seed, widest=widest)
    ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _running(value_BA: Floats) -> Floats:
    """(B, A + 1): cumulative sums of the values before each place."""
    total = np.zeros((value_BA.shape[0], value_BA.shape[1] + 1))
    np.cumsum(value_BA, axis=1, out=total[:, 1:])
    return total
