"""Every metric as sums by request.

A mean over requests, a share of pairs, a weighted mean over users: each is a quotient of two sums over requests. Sums
by request can be added over any set of users. Intervals and paired differences need only these sums, not the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.evaluation.metrics.calibration import pair_calibration
from easq_rec.evaluation.metrics.ranking import discounts, graded_gain, ndcg_at, ordered_pairs
from easq_rec.evaluation.metrics.segments import Order, checked_gain, checked_score, request_of, same_size, won_pairs
from easq_rec.evaluation.ranking_metrics import RankingMetrics

CUTOFFS = (1, 5, 10)
"""Cutoffs k of NDCG@k."""

MEANS = tuple(f"{kind}_ndcg{k}" for kind in ("satisfaction", "engagement", "answer") for k in CUTOFFS)
"""Metrics that are the mean of the column of the same name over the requests where it is not NaN."""
QUOTIENTS = {
    "pair_accuracy": ("pairs_correct", "pairs"),
    "user_pair_accuracy": ("user_pairs_correct", "user_pairs"),
    "engagement_pair_accuracy": ("engagement_pairs_correct", "engagement_pairs"),
    "gauc": ("gauc_won", "gauc_weight"),
    "answer_gauc": ("answer_gauc_won", "answer_gauc_weight"),
}
"""Metrics that are the sum of one column divided by the sum of another."""
CALIBRATION = ("calibration_predicted", "calibration_observed", "calibration_pairs")
"""Columns by request and bin, see `PairCalibration`."""

BLOCK = 1 << 16
"""Candidates processed at once, as whole users, so that intermediate values stay in the cache."""


def ranking_metrics(
    score_N: Tensor,
    truth_N: Tensor,
    utility_N: Tensor,
    lengths_R: Tensor,
    user_R: Tensor,
    *,
    policy_N: Tensor | None = None,
) -> RankingMetrics:
    """Every ranking metric of a score over held-out requests.

    Args:
        score_N: the served score; higher is better.
        truth_N: graded satisfaction (0 is the lowest grade), NaN where unknown.
        utility_N: engagement utility, 0 or more.
        lengths_R: candidates per request (int64; 0 allowed).
        user_R: user id of each request, any integers.
        policy_N: the score whose calibration is measured; None: the served score.

    Raises:
        ValueError: shapes that disagree, NaN scores or utilities, grades or utilities that are negative or infinite.
    """
    columns = request_columns(score_N, truth_N, utility_N, lengths_R, user_R, policy_N=policy_N)
    quotients = {
        name: float(columns[top].sum() / columns[bottom].sum())
        for name, (top, bottom) in QUOTIENTS.items()
        if top in columns
    }
    predicted_K, observed_K, pairs_K = (columns[name].sum(0) for name in CALIBRATION)
    gap_K = predicted_K - observed_K
    return RankingMetrics(
        **{name: float(columns[name].nanmean()) for name in MEANS if name in columns},
        **quotients,
        calibration_error=float(gap_K.abs().sum() / pairs_K.sum()),
        calibration_gap=float(gap_K.sum() / pairs_K.sum()),
        requests=lengths_R.numel(),
        candidates=score_N.numel(),
    )


def request_columns(
    score_N: Tensor,
    truth_N: Tensor,
    utility_N: Tensor,
    lengths_R: Tensor,
    user_R: Tensor,
    *,
    policy_N: Tensor | None = None,
) -> dict[str, Tensor]:
    """Columns that the metrics of outcomes and truth sum: (R,) and, for `CALIBRATION`, (R, K). float64.

    Args:
        score_N: the served score.
        policy_N: the policy score, whose calibration is measured, if another score is served.

    Other arguments and errors: `ranking_metrics`.
    """
    request_of(lengths_R, score_N=score_N, truth_N=truth_N, utility_N=utility_N)
    same_size(lengths_R.numel(), "lengths_R", user_R=user_R)
    checked_gain("truth_N", torch.where(truth_N.isnan(), 0, truth_N))
    score_N, utility_N = checked_score(score_N), checked_gain("utility_N", utility_N)
    if policy_N is None:
        policy_N = score_N
    else:
        same_size(score_N.numel(), "score_N", policy_N=policy_N)
        policy_N = checked_score(policy_N)
    # Dense user ids are computed over R, not N: a request has one user.
    user_R = torch.unique(user_R, return_inverse=True)[1]
    if bool((user_R.diff() < 0).any()):
        order_R = user_R.argsort(stable=True)
        index_N = _candidates_of(order_R, lengths_R)
        score_N, truth_N, utility_N, policy_N = (v_N[index_N] for v_N in (score_N, truth_N, utility_N, policy_N))
        user_R, lengths_R = user_R[order_R], lengths_R[order_R]
    else:
        order_R = torch.arange(user_R.numel(), device=user_R.device)
    parts = [
        _columns_of_users(
            score_N[items], truth_N[items], utility_N[items], policy_N[items], lengths_R[rows], user_R[rows]
        )
        for rows, items in _user_blocks(user_R, lengths_R)
    ]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: torch.empty_like(column).index_copy_(0, order_R, column) for name, column in joined.items()}


def _columns_of_users(
    score_N: Tensor, truth_N: Tensor, utility_N: Tensor, policy_N: Tensor, lengths_R: Tensor, user_R: Tensor
) -> dict[str, Tensor]:
    """`request_columns` for whole users with ascending dense ids."""
    requests = lengths_R.numel()
    request_N = request_of(lengths_R)
    within = Order.of(score_N, request_N, requests)
    discount = discounts(within, CUTOFFS)
    columns = _ndcg_columns("satisfaction", within, discount, graded_gain(truth_N))
    columns |= _ndcg_columns("engagement", within, discount, utility_N)
    columns["pairs_correct"], columns["pairs"] = ordered_pairs(within, truth_N, request_N, requests)
    columns["engagement_pairs_correct"], columns["engagement_pairs"] = ordered_pairs(
        within, utility_N, request_N, requests
    )

    user_S, index_R = torch.unique_consecutive(user_R, return_inverse=True)
    of_user = Order.of(score_N, index_R[request_N], user_S.numel())
    columns["user_pairs_correct"], columns["user_pairs"] = ordered_pairs(of_user, truth_N, request_N, requests)
    columns |= _gauc_columns("gauc", of_user, utility_N > 0, request_N, requests)

    calibration = pair_calibration(policy_N, utility_N, lengths_R)
    return columns | dict(zip(CALIBRATION, calibration, strict=True))


def _candidates_of(order_R: Tensor, lengths_R: Tensor) -> Tensor:
    """Indices of all candidates with the requests in another order, (N,)."""
    start_R = (lengths_R.cumsum(0) - lengths_R)[order_R]
    lengths_R = lengths_R[order_R]
    shift_R = start_R - (lengths_R.cumsum(0) - lengths_R)
    items = int(lengths_R.sum())
    return torch.arange(items, device=order_R.device) + shift_R.repeat_interleave(lengths_R, output_size=items)


def _user_blocks(user_R: Tensor, lengths_R: Tensor) -> Iterator[tuple[slice, slice]]:
    """(requests, candidates) of blocks of whole users, about `BLOCK` candidates each."""
    requests, items_R1 = user_R.numel(), torch.nn.functional.pad(lengths_R.cumsum(0), (1, 0))
    # A user belongs to the block of its first candidate.
    first_U = torch.nonzero(user_R.diff(prepend=user_R.new_full((1,), -1))).squeeze(1)
    opens_U = (items_R1[first_U] // BLOCK).diff() > 0
    bounds = [0, *first_U[1:][opens_U].tolist(), requests]
    items = items_R1[torch.tensor(bounds, device=items_R1.device)].tolist()
    for (begin, end), (first, last) in zip(pairwise(bounds), pairwise(items), strict=True):
        yield slice(begin, end), slice(first, last)


def answer_columns(
    score_N: Tensor,
    answer_N: Tensor,
    lengths_R: Tensor,
    user_R: Tensor,
    *,
    scale: AnswerScale = THREE_ANSWERS,
) -> dict[str, Tensor]:
    """Columns that the metrics of answers sum: (R,), float64.

    They do not include the AUC over all answers, which compares answers of different users.

    NDCG is computed over the whole slate, with gain 1 for a candidate with a satisfied answer and 0 for all others, for
    requests with at least one such candidate. Most answered requests have one answer, so a ranking of only answered
    candidates would be trivial. Candidates without an answer count as not satisfying, as in the evaluation of implicit
    feedback: the level of this NDCG means little, but its change between runs is informative.

    Args:
        score_N: the served score.
        answer_N: answer codes; a value outside the scale means no answer.
        lengths_R, user_R: as in `ranking_metrics`.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    request_N = request_of(lengths_R, score_N=score_N, answer_N=answer_N)
    requests = lengths_R.numel()
    same_size(requests, "lengths_R", user_R=user_R)
    score_N = checked_score(score_N)
    within = Order.of(score_N, request_N, requests)
    satisfied_N = torch.isin(answer_N, answer_N.new_tensor(scale.satisfied_codes))
    columns = _ndcg_columns("answer", within, discounts(within, CUTOFFS), satisfied_N.double())
    user_S, index_R = torch.unique(user_R, return_inverse=True)
    compared_N = satisfied_N | torch.isin(answer_N, answer_N.new_tensor(scale.dissatisfied_codes))
    request_A = request_N[compared_N]
    of_user = Order.of(score_N[compared_N], index_R[request_A], user_S.numel())
    return columns | _gauc_columns("answer_gauc", of_user, satisfied_N[compared_N], request_A, requests)


def _ndcg_columns(kind: str, order: Order, discount: list[Tensor], gain_N: Tensor) -> dict[str, Tensor]:
    found = ndcg_at(order, discount, gain_N, CUTOFFS)
    return {f"{kind}_ndcg{k}": value_R for k, value_R in zip(CUTOFFS, found, strict=True)}


def _gauc_columns(name: str, order: Order, positive_N: Tensor, request_N: Tensor, requests: int) -> dict[str, Tensor]:
    """items_u * AUC_u, distributed over the user's requests by the pairs that their positives win; and items_u."""
    won_N, pairs_N = won_pairs(order, positive_N[order.item_N].long())
    zero_S = won_N.new_zeros(order.segments)
    pairs_S = zero_S.index_add(0, order.segment_N, pairs_N)
    items_S = order.start_S1.diff().double()
    # A user with one class has no AUC, so its weight is 0.
    share_S = torch.where(pairs_S > 0, items_S / pairs_S, 0.0)
    owner_N, zero_R = request_N[order.item_N], won_N.new_zeros(requests)
    return {
        f"{name}_won": zero_R.index_add(0, owner_N, won_N * share_S[order.segment_N]),
        f"{name}_weight": zero_R.index_add(0, owner_N, (pairs_S > 0)[order.segment_N].double()),
    }
