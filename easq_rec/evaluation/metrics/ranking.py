"""NDCG, AUC and pair accuracy of one score over flat candidates.

See `easq_rec.evaluation.metrics` for the shape suffixes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from easq_rec.evaluation.metrics.segments import (
    Order,
    checked_gain,
    checked_score,
    levels,
    request_of,
    same_size,
    won_pairs,
)


class SegmentAUC(NamedTuple):
    """AUC of each segment."""

    segment_S: Tensor
    """Distinct segment ids, ascending."""
    auc_S: Tensor
    """float64; NaN where a segment lacks positives or negatives."""
    positives_S: Tensor
    """Items with a positive label (int64)."""
    items_S: Tensor
    """Items (int64)."""


class PairCounts(NamedTuple):
    """Numerator and denominator of pair accuracy: counts can be added over batches and ranks, quotients cannot."""

    correct: Tensor
    """Pairs ordered as the truth orders them; a tie in the score counts half. Scalar, float64."""
    pairs: Tensor
    """Pairs whose truths are both known and differ. Scalar, int64."""


def graded_gain(grade_N: Tensor) -> Tensor:
    """Exponential gain 2**grade - 1 in float64, elementwise; 0 where the grade is NaN (unknown).

    Source: Burges et al. 2005, as used by NDCG on graded relevance.
    """
    grade_N = grade_N.double()
    return torch.where(grade_N.isnan(), 0.0, torch.exp2(grade_N) - 1.0)


def ndcg(score_N: Tensor, gain_N: Tensor, lengths_R: Tensor, k: int) -> Tensor:
    """NDCG@k of each request, (R,) float64, NaN where no candidate has a positive gain.

    Gains are linear: pass `graded_gain` of grades for the exponential form. The discount is 1 / log2(position + 2).
    Candidates with equal scores share the mean discount of the positions that they occupy, which is the expected DCG
    under random tie-breaking, as in ``sklearn.metrics.ndcg_score(ignore_ties=False)`` (McSherry and Najork 2008).

    Average over requests with ``torch.nanmean``: a request without positive gain has no NDCG, and counting it as 0
    (as scikit-learn does) would make the mean depend on how many such requests there are.

    Raises:
        ValueError: k < 1, shapes that disagree, NaN scores, or gains that are negative or not finite.
    """
    request_N = request_of(lengths_R, score_N=score_N, gain_N=gain_N)
    checked_gain("gain_N", gain_N)
    order = Order.of(checked_score(score_N), request_N, lengths_R.numel())
    return ndcg_at(order, discounts(order, (k,)), gain_N, (k,))[0]


def discounts(order: Order, cutoffs: tuple[int, ...]) -> list[Tensor]:
    """For each cutoff, the discount at each place, (N,) float64: the mean over the positions that its ties occupy."""
    start_N, tables = order.start_S1[order.segment_N], _discount_tables(order, cutoffs)
    depth = tables[0].numel() - 1
    first_N, end_N = ((place_N - start_N).clamp_(max=depth) for place_N in (order.first_N, order.end_N))
    tied_N = order.end_N - order.first_N
    # Sum of the discounts before each position.
    sums = [torch.nn.functional.pad(discount_D[:-1].cumsum(0), (1, 0)) for discount_D in tables]
    return [(before_D[end_N] - before_D[first_N]) / tied_N for before_D in sums]


def _discount_tables(order: Order, cutoffs: tuple[int, ...]) -> list[Tensor]:
    """For each cutoff, the discounts of all positions up to the largest cutoff; positions beyond a cutoff get 0."""
    if min(cutoffs) < 1:
        raise ValueError(f"k={min(cutoffs)} is not allowed: at least 1")
    depth = min(max(cutoffs), max(order.item_N.numel(), 1))
    position_D = torch.arange(depth + 1, dtype=torch.float64, device=order.item_N.device)
    return [torch.where(position_D < min(k, depth), 1.0 / torch.log2(position_D + 2.0), 0.0) for k in cutoffs]


def ndcg_at(order: Order, discount: list[Tensor], gain_N: Tensor, cutoffs: tuple[int, ...]) -> list[Tensor]:
    """NDCG of each segment at each cutoff.

    Args:
        order: items by segment and descending score.
        discount: `discounts(order, cutoffs)`.
        gain_N: 0 or more, in item order, not in place order.
    """
    segment_N = torch.empty_like(order.segment_N).index_copy_(0, order.item_N, order.segment_N)
    ideal = Order.of(gain_N, segment_N, order.segments)
    ranked_N, best_N = gain_N[order.item_N].double(), ideal.value_N.double()
    # Ties in the ideal order have equal gains, so their order does not matter.
    position_N = torch.arange(len(ideal.item_N), device=gain_N.device) - ideal.start_S1[ideal.segment_N]
    tables = _discount_tables(ideal, cutoffs)
    position_N.clamp_(max=tables[0].numel() - 1)
    zero_S = ranked_N.new_zeros(order.segments)
    return [
        # 0 / 0 gives the NaN of a request without positive gain.
        zero_S.index_add(0, order.segment_N, served_N * ranked_N)
        / zero_S.index_add(0, ideal.segment_N, ideal_D[position_N] * best_N)
        for served_N, ideal_D in zip(discount, tables, strict=True)
    ]


def auc(score_N: Tensor, label_N: Tensor, segment_N: Tensor) -> SegmentAUC:
    """Area under the ROC curve of each segment; an item is positive where its label > 0.

    A tie in the score counts half. Segment ids are any integers, in any order.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    same_size(segment_N.numel(), "segment_N", score_N=score_N, label_N=label_N)
    segment_S, index_N = torch.unique(segment_N, return_inverse=True)
    segments = segment_S.numel()
    order = Order.of(checked_score(score_N), index_N, segments)
    positive_N = label_N > 0
    won_N, pairs_N = won_pairs(order, positive_N[order.item_N].long())
    won_S, pairs_S = (won_N.new_zeros(segments).index_add_(0, order.segment_N, count) for count in (won_N, pairs_N))
    return SegmentAUC(
        segment_S,
        won_S / pairs_S,  # 0 / 0 gives the NaN of a segment with one class
        torch.bincount(index_N[positive_N], minlength=segments),
        torch.bincount(index_N, minlength=segments),
    )


def gauc(score_N: Tensor, label_N: Tensor, user_N: Tensor) -> Tensor:
    """Per-user AUC, averaged with each user's impressions as weight, over the users with both classes.

    Source: Zhu et al. 2017 (optimized cost per click), adopted by DIN (Zhou et al. 2018). A user with one class has no
    AUC, so its weight is 0. Scalar, float64; NaN if no user has both classes.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    users = auc(score_N, label_N, user_N)
    weight_S = torch.where(users.auc_S.isnan(), 0, users.items_S).double()
    return (users.auc_S.nan_to_num() * weight_S).sum() / weight_S.sum()


def pair_accuracy(score_N: Tensor, truth_N: Tensor, lengths_R: Tensor) -> PairCounts:
    """Counts the within-request pairs whose truths are known (not NaN) and differ, and those ordered correctly.

    A tie in the score counts half.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    request_N = request_of(lengths_R, score_N=score_N, truth_N=truth_N)
    order = Order.of(checked_score(score_N), request_N, lengths_R.numel())
    won_R, pairs_R = ordered_pairs(order, truth_N, request_N, lengths_R.numel())
    return PairCounts(won_R.sum(), pairs_R.sum().long())


def ordered_pairs(order: Order, truth_N: Tensor, request_N: Tensor, requests: int) -> tuple[Tensor, Tensor]:
    """Pairs of a segment with known, differing truths: (ordered correctly, all), each (R,) float64.

    A pair counts for the request of the candidate with the higher truth. So if segments are users, the sums over a
    user's requests cover all pairs of the user, within and across requests.

    Args:
        order: candidates by segment and descending score.
        truth_N: NaN where unknown. This and `request_N` are in candidate order, not in place order.
    """
    truth_N = truth_N[order.item_N]
    known_N = ~truth_N.isnan()
    order = order.only(known_N)
    won_N, pairs_N = won_pairs(order, levels(truth_N[known_N]))
    owner_N = request_N[order.item_N]
    return (
        won_N.new_zeros(requests).index_add_(0, owner_N, won_N),
        pairs_N.new_zeros(requests).index_add_(0, owner_N, pairs_N),
    )
