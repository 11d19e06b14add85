"""How well scores order held-out impressions, with intervals by a bootstrap over users.

A user's impressions are drawn together, because they are not independent. A resample is a vector of weights: how often
each user was drawn. All rankers and seeds use the same resamples.

Shape suffixes:
    N  impressions
    R  requests
    U  users
    B  resamples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from easq_rec.evaluation.metrics import auc, ndcg

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

METRICS = ("auc", "gauc", "log_loss", "ndcg5")
RESAMPLES = 1_000
CONFIDENCE = 0.95
CUTOFF = 5
LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one wrong certainty does not make the log loss infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What happened: the label, the user and the request of each impression."""

    label_N: NDArray[np.bool_]
    user_N: Ints
    """User id, any integers."""
    request_N: Ints
    """0, 0, 1, ...: ascending, so that the impressions of a request are neighbours."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the ends of its 95% interval; NaN: undefined."""

    value: float
    low: float
    high: float


def quality(
    scores: Sequence[Floats], truth: Truth, *, probability: bool, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """The metrics of one ranker, as means over its seeds.

    - auc: over all impressions.
    - gauc: AUC of each user with both labels, weighted by the user's impressions.
    - log_loss: natural logarithm, mean over impressions; only of probabilities.
    - ndcg5: NDCG@5 with gain 1 for a positive, mean over the requests with both labels.

    Equal scores count half in both AUC, and share their places in the NDCG.

    Args:
        scores: (N,) of each seed; higher is better.
        probability: whether the scores are probabilities of the label.
        resamples: of the users, for the intervals.

    Returns:
        Each of `METRICS`, except `log_loss` if the scores are not probabilities.
    """
    means, replicates = mean_over_seeds(scores, truth, probability=probability, resamples=resamples, seed=seed)
    return {name: _estimate(means[name], replicates[name]) for name in means}


def difference(
    scores: Sequence[Floats], base: Sequence[Floats], truth: Truth, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """`auc`, `gauc` and `ndcg5` of `scores` minus those of `base`; both from the same resamples of users."""
    mine, mine_B = mean_over_seeds(scores, truth, probability=False, resamples=resamples, seed=seed)
    other, other_B = mean_over_seeds(base, truth, probability=False, resamples=resamples, seed=seed)
    return {name: _estimate(mine[name] - other[name], mine_B[name] - other_B[name]) for name in mine}


def mean_over_seeds(
    scores: Sequence[Floats], truth: Truth, *, probability: bool, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Floats]]:
    """(each metric, each metric of every resample (B,)), as means over the seeds; see `quality`."""
    users, user_N = np.unique(truth.user_N, return_inverse=True)
    weight_BU = np.concatenate([np.ones((1, len(users))), _weights(len(users), resamples, seed)])
    found = [_metrics(score_N, truth, user_N, weight_BU, probability=probability) for score_N in scores]
    mean = {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}
    return {name: float(value_B[0]) for name, value_B in mean.items()}, {n: v_B[1:] for n, v_B in mean.items()}


def _metrics(
    score_N: Floats, truth: Truth, user_N: Ints, weight_BU: Floats, *, probability: bool
) -> Mapping[str, Floats]:
    """(B,) of each metric, with user u counted weight_BU[b, u] times. `user_N`: places of the users on axis U."""
    users = weight_BU.shape[1]
    score_t, label_t = torch.from_numpy(np.asarray(score_N, dtype=np.float64)), torch.from_numpy(truth.label_N)
    by_user = auc(score_t, label_t.long(), torch.from_numpy(user_N))
    both_U = np.isfinite(by_user.auc_S.numpy())
    size_U = np.where(both_U, by_user.items_S.numpy(), 0)
    found = {"auc": _weighted_auc(score_N, truth.label_N, user_N, weight_BU)}
    found["gauc"] = weight_BU @ (np.nan_to_num(by_user.auc_S.numpy()) * size_U) / (weight_BU @ size_U)
    if probability:
        p_N = np.clip(score_N, LEAST, 1 - LEAST)
        loss_N = -np.where(truth.label_N, np.log(p_N), np.log1p(-p_N))
        loss_U, count_U = (np.bincount(user_N, value_N, minlength=users) for value_N in (loss_N, np.ones(len(loss_N))))
        found["log_loss"] = weight_BU @ loss_U / (weight_BU @ count_U)
    starts_R = np.flatnonzero(np.r_[True, np.diff(truth.request_N) != 0])
    lengths_R = np.diff(np.r_[starts_R, len(score_N)])
    positives_R = np.add.reduceat(truth.label_N.astype(np.int64), starts_R)
    both_R = (positives_R > 0) & (positives_R < lengths_R)
    ndcg_R = ndcg(score_t, label_t.double(), torch.from_numpy(lengths_R), CUTOFF).numpy()
    top_U, bottom_U = (
        np.bincount(user_N[starts_R][both_R], value_R, minlength=users)
        for value_R in (ndcg_R[both_R], np.ones(int(both_R.sum())))
    )
    found["ndcg5"] = weight_BU @ top_U / (weight_BU @ bottom_U)
    return found


def _weighted_auc(score_N: Floats, label_N: NDArray[np.bool_], user_N: Ints, weight_BU: Floats) -> Floats:
    """(B,): share of (positive, negative) pairs that the score orders correctly, each pair weighted by the product of
    its users' weights; a tie counts half."""
    order_N = np.argsort(score_N, kind="stable")
    sorted_N, label_N, user_N = np.asarray(score_N)[order_N], label_N[order_N], user_N[order_N]
    positive = np.flatnonzero(label_N)
    first, end = (np.searchsorted(sorted_N, sorted_N[positive], side=side) for side in ("left", "right"))
    result_B = np.empty(len(weight_BU))
    for row, weight_U in enumerate(weight_BU):
        weight_N = weight_U[user_N]
        below_N1 = np.r_[0.0, np.cumsum(np.where(label_N, 0.0, weight_N))]
        won = weight_N[positive] @ (below_N1[first] + below_N1[end]) / 2
        result_B[row] = won / (weight_N[positive].sum() * below_N1[-1])
    return result_B


def _weights(users: int, resamples: int, seed: int) -> Floats:
    """(B, U): how often each user is drawn in U draws with replacement."""
    generator = np.random.default_rng(seed)
    drawn = (np.bincount(generator.integers(0, users, size=users), minlength=users) for _ in range(resamples))
    return np.fromiter(drawn, dtype=np.dtype((np.float32, users)), count=resamples)


def _estimate(value: float, replicate_B: Floats) -> Estimate:
    """Percentile interval. Resamples in which the metric is undefined are left out."""
    known_B = replicate_B[np.isfinite(replicate_B)]
    if not len(known_B):
        return Estimate(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(known_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high))
