"""Ranking metrics over flat candidates, vectorised over segments: no Python loop over requests or users.

Every function takes CPU or CUDA tensors, and computes in float64 on their device. NDCG and AUC both follow from one
thing, the rank of each item within its segment with its ties (`_rank`), so that memory stays linear in N however
uneven the segments are.

Shape suffixes:
    R  requests of the batch or of the whole evaluation
    N  candidates of all requests, flat, request after request
    S  segments (distinct users, for GAUC)
    G  groups of tied items within a segment
    P  requests of one padded chunk
    C  candidates of the longest request of a chunk; I: a tile of them
    D  discount positions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

PAIR_CHUNK = 1 << 20
"""Cells of one padded block of pairs: bounds the memory of `pair_accuracy` (a few bytes each)."""


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
    """What pair accuracy is the quotient of: counts add up over batches and ranks, quotients do not."""

    correct: Tensor
    """Pairs ordered as the truth orders them; a tie in the score counts half. Scalar, float64."""
    pairs: Tensor
    """Pairs whose truths are both known and differ. Scalar, int64."""


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """How well one score ranks held-out requests. A metric that the data leave undefined is NaN."""

    satisfaction_ndcg5: float
    """Mean NDCG@5 with gain 2**grade - 1, over the requests with some positive gain."""
    satisfaction_ndcg10: float
    engagement_ndcg5: float
    """Mean NDCG@5 with gain = engagement utility, over the requests with some positive utility."""
    engagement_ndcg10: float
    pair_accuracy: float
    """Share of the within-request pairs with known, differing grades that the score orders rightly."""
    gauc: float
    """Impression-weighted mean of per-user AUC; positive: utility > 0."""
    requests: int
    candidates: int


class _Rank(NamedTuple):
    """Where each item stands in its segment when the segment is sorted by descending value."""

    above_N: Tensor
    """Items of the segment with a larger value (int64)."""
    tied_N: Tensor
    """Items of the segment with the same value, itself included (int64)."""


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
    under random tie-breaking, exactly as ``sklearn.metrics.ndcg_score(ignore_ties=False)`` has it (McSherry and Najork
    2008).

    Average over requests with ``torch.nanmean``: a request without positive gain has no NDCG, and counting it as 0
    (as scikit-learn does) would make the mean depend on how many such requests there are.

    Raises:
        ValueError: k < 1, shapes that disagree, NaN scores, or gains that are negative or not finite.
    """
    request_N = _requests(lengths_R, score_N=score_N, gain_N=gain_N)
    requests = lengths_R.numel()
    ideal = _rank(_checked_gain("gain_N", gain_N), request_N, requests)
    return _ndcg(_rank(_checked_score(score_N), request_N, requests), ideal, gain_N, request_N, requests, k)


def auc(score_N: Tensor, label_N: Tensor, segment_N: Tensor) -> SegmentAUC:
    """Area under the ROC curve of each segment; an item is positive where its label > 0.

    A tie in the score counts half. Segment ids are any integers, in any order.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    _same_size(segment_N.numel(), "segment_N", score_N=score_N, label_N=label_N)
    segment_S, index_N = torch.unique(segment_N, return_inverse=True)
    return _auc(_checked_score(score_N), label_N, index_N, segment_S)


def gauc(score_N: Tensor, label_N: Tensor, user_N: Tensor) -> Tensor:
    """Per-user AUC, averaged with each user's impressions as weight, over the users with both classes.

    Source: Zhu et al. 2017 (optimized cost per click), adopted by DIN (Zhou et al. 2018). A user with one class has no
    AUC, and so no weight either. Scalar, float64; NaN if no user has both classes.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    return _gauc(auc(score_N, label_N, user_N))


def pair_accuracy(score_N: Tensor, truth_N: Tensor, lengths_R: Tensor) -> PairCounts:
    """Counts the within-request pairs whose truths are known (not NaN) and differ, and those ordered rightly.

    A tie in the score counts half. Requests are padded to the longest of their chunk; chunks are taken in order of
    length, and a block of pairs holds about `PAIR_CHUNK` cells at most.

    Raises:
        ValueError: shapes that disagree, or NaN scores.
    """
    _requests(lengths_R, score_N=score_N, truth_N=truth_N)
    return _pair_accuracy(_checked_score(score_N), truth_N, lengths_R)


def ranking_metrics(
    score_N: Tensor, truth_N: Tensor, utility_N: Tensor, lengths_R: Tensor, user_R: Tensor
) -> RankingMetrics:
    """Every ranking metric of one score over held-out requests.

    Args:
        score_N: the score that would be served; higher is better.
        truth_N: graded satisfaction (0 is the lowest grade), NaN where unknown.
        utility_N: engagement utility, 0 or more.
        lengths_R: candidates per request (int64; 0 allowed).
        user_R: user id of each request, any integers.

    Raises:
        ValueError: shapes that disagree, NaN scores or utilities, grades or utilities that are negative or infinite.
    """
    request_N = _requests(lengths_R, score_N=score_N, truth_N=truth_N, utility_N=utility_N)
    _same_size(lengths_R.numel(), "lengths_R", user_R=user_R)
    score_N, requests = _checked_score(score_N), lengths_R.numel()

    rank = _rank(score_N, request_N, requests)
    satisfaction_N = graded_gain(_checked_gain("truth_N", torch.where(truth_N.isnan(), 0, truth_N)))
    satisfaction_ideal = _rank(satisfaction_N, request_N, requests)
    engagement_N = _checked_gain("utility_N", utility_N)
    engagement_ideal = _rank(engagement_N, request_N, requests)

    def mean(ideal: _Rank, gain_N: Tensor, k: int) -> float:
        return float(_ndcg(rank, ideal, gain_N, request_N, requests, k).nanmean())

    pairs = _pair_accuracy(score_N, truth_N, lengths_R)
    # Users are made dense over R, not N: a request has one user.
    user_S, index_R = torch.unique(user_R, return_inverse=True)
    users = _auc(score_N, utility_N, index_R[request_N], user_S)
    return RankingMetrics(
        satisfaction_ndcg5=mean(satisfaction_ideal, satisfaction_N, 5),
        satisfaction_ndcg10=mean(satisfaction_ideal, satisfaction_N, 10),
        engagement_ndcg5=mean(engagement_ideal, engagement_N, 5),
        engagement_ndcg10=mean(engagement_ideal, engagement_N, 10),
        pair_accuracy=float(pairs.correct / pairs.pairs),
        gauc=float(_gauc(users)),
        requests=requests,
        candidates=score_N.numel(),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Ranks within segments


def _rank(value_N: Tensor, segment_N: Tensor, segments: int) -> _Rank:
    """Counts, for each item, the items of its segment with a larger and with an equal value.

    `segment_N` holds dense ids 0..segments-1 in any order; values are free of NaN.
    """
    items, device = value_N.numel(), value_N.device
    order_N = _descending_within_segments(value_N, segment_N)
    value_N, segment_N = value_N[order_N], segment_N[order_N]
    opens_N = torch.ones(items, dtype=torch.bool, device=device)
    opens_N[1:] = (value_N[1:] != value_N[:-1]) | (segment_N[1:] != segment_N[:-1])
    group_N = opens_N.cumsum(0) - 1
    first_G = opens_N.nonzero().squeeze(1)
    size_G = first_G.diff(append=torch.tensor([items], device=device))
    start_S = _exclusive_cumsum(torch.bincount(segment_N, minlength=segments))
    above_G = first_G - start_S[segment_N[first_G]]
    above_N = torch.empty_like(order_N).index_copy_(0, order_N, above_G[group_N])
    tied_N = torch.empty_like(order_N).index_copy_(0, order_N, size_G[group_N])
    return _Rank(above_N, tied_N)


def _descending_within_segments(value_N: Tensor, segment_N: Tensor) -> Tensor:
    """Permutation that sorts by segment, and within a segment by descending value (ties in any order)."""
    narrow_N = value_N.float()
    if value_N.is_floating_point() and torch.equal(narrow_N.to(value_N.dtype), value_N):
        # Segment and value fit one integer: one radix sort, several times faster than two stable sorts. The bits of an
        # IEEE float order like its magnitude, and flipping those of the negatives orders them too (-0.0 just below 0.0:
        # next to each other, which is all that equal values need).
        bits_N = narrow_N.view(torch.int32)
        ascending_N = bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)
        return ((segment_N << 32) - ascending_N.long()).argsort()
    order_N = value_N.argsort(descending=True, stable=True)
    return order_N[segment_N[order_N].argsort(stable=True)]


def _exclusive_cumsum(count_S: Tensor) -> Tensor:
    return count_S.cumsum(0) - count_S


# ---------------------------------------------------------------------------------------------------------------------
# Metrics from ranks


def _ndcg(rank: _Rank, ideal: _Rank, gain_N: Tensor, request_N: Tensor, requests: int, k: int) -> Tensor:
    gain_N = gain_N.double()
    ideal_R = _dcg(ideal, gain_N, request_N, requests, k)
    # 0 / 0 is the NaN of a request without positive gain.
    return _dcg(rank, gain_N, request_N, requests, k) / ideal_R


def _dcg(rank: _Rank, gain_N: Tensor, request_N: Tensor, requests: int, k: int) -> Tensor:
    """DCG@k of each request, (R,): each item earns the mean discount of the positions that its ties occupy."""
    if k < 1:
        raise ValueError(f"k={k} is not allowed: at least 1")
    depth = min(k, max(gain_N.numel(), 1))
    position_D = torch.arange(depth, dtype=torch.float64, device=gain_N.device)
    # Sum of the discounts before each position: positions from k on have none.
    before_D = torch.nn.functional.pad((1.0 / torch.log2(position_D + 2.0)).cumsum(0), (1, 0))
    first_N = rank.above_N.clamp(max=depth)
    end_N = (rank.above_N + rank.tied_N).clamp(max=depth)
    discount_N = (before_D[end_N] - before_D[first_N]) / rank.tied_N
    return gain_N.new_zeros(requests).index_add_(0, request_N, discount_N * gain_N)


def _auc(score_N: Tensor, label_N: Tensor, index_N: Tensor, segment_S: Tensor) -> SegmentAUC:
    """`index_N` holds positions in `segment_S`."""
    segments = segment_S.numel()
    rank = _rank(score_N, index_N, segments)
    positive_N = label_N > 0
    items_S = torch.bincount(index_N, minlength=segments)
    positives_S = torch.bincount(index_N[positive_N], minlength=segments)
    # Mann-Whitney: a positive beats the items below it and half of its ties; subtracting the positives among these
    # (each pair of positives contributes exactly 1 in total, each positive against itself 1/2) leaves the negatives.
    beaten_N = (items_S[index_N] - rank.above_N).double() - rank.tied_N / 2
    wins_S = beaten_N.new_zeros(segments).index_add_(0, index_N, torch.where(positive_N, beaten_N, 0.0))
    wins_S = wins_S - positives_S.double().square() / 2
    # 0 / 0 is the NaN of a segment with one class.
    return SegmentAUC(segment_S, wins_S / (positives_S * (items_S - positives_S)), positives_S, items_S)


def _gauc(users: SegmentAUC) -> Tensor:
    defined_S = ~users.auc_S.isnan()
    weight_S = torch.where(defined_S, users.items_S, 0).double()
    return (users.auc_S.nan_to_num() * weight_S).sum() / weight_S.sum()


def _pair_accuracy(score_N: Tensor, truth_N: Tensor, lengths_R: Tensor) -> PairCounts:
    truth_N = truth_N if truth_N.is_floating_point() else truth_N.double()
    # One more item, unknown, for the padding to point at: a comparison with NaN is false, so it forms no pair.
    score_N = torch.cat([score_N, score_N.new_zeros(1)])
    truth_N = torch.cat([truth_N, truth_N.new_full((1,), float("nan"))])
    pairs = torch.zeros((), dtype=torch.int64, device=score_N.device)
    wins, ties = torch.zeros_like(pairs), torch.zeros_like(pairs)
    for index_PC in _padded_chunks(lengths_R):
        score_PC, truth_PC = score_N[index_PC], truth_N[index_PC]
        tile = max(1, PAIR_CHUNK // index_PC.numel())
        for score_PI, truth_PI in zip(torch.split(score_PC, tile, 1), torch.split(truth_PC, tile, 1), strict=True):
            better_PIC = truth_PI[:, :, None] > truth_PC[:, None, :]
            pairs += better_PIC.count_nonzero()
            wins += (better_PIC & (score_PI[:, :, None] > score_PC[:, None, :])).count_nonzero()
            ties += (better_PIC & (score_PI[:, :, None] == score_PC[:, None, :])).count_nonzero()
    return PairCounts(wins.double() + ties.double() / 2, pairs)


def _padded_chunks(lengths_R: Tensor) -> Iterator[Tensor]:
    """Candidate indices (P, C) of the requests, chunk by chunk; padding holds the index N.

    Longest first, so that a chunk's requests have like lengths and little of it is padding.
    """
    padding = int(lengths_R.sum())
    lengths_R, order_R = lengths_R.sort(descending=True)
    start_R = _exclusive_cumsum(lengths_R.new_empty(lengths_R.shape).index_copy_(0, order_R, lengths_R))[order_R]
    done = 0
    # A request of one candidate has no pair.
    while done < lengths_R.numel() and (width := int(lengths_R[done])) > 1:
        rows = slice(done, done + max(1, PAIR_CHUNK // width**2))
        column_C = torch.arange(width, device=lengths_R.device)
        index_PC = start_R[rows, None] + column_C
        yield index_PC.masked_fill_(column_C >= lengths_R[rows, None], padding)
        done = rows.stop


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def _requests(lengths_R: Tensor, **value_N: Tensor) -> Tensor:
    """Request index of each candidate, (N,) int64, after checking that the lengths describe the values."""
    if bool((lengths_R < 0).any()):
        raise ValueError(f"lengths_R holds {int(lengths_R.min())}: candidates per request must be 0 or more")
    items = int(lengths_R.sum())
    _same_size(items, "the sum of lengths_R", **value_N)
    request_R = torch.arange(lengths_R.numel(), device=lengths_R.device)
    return request_R.repeat_interleave(lengths_R, output_size=items)


def _same_size(items: int, owner: str, **values: Tensor) -> None:
    for name, value in values.items():
        if value.shape != (items,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}, but {owner} asks for ({items},)")


def _checked_score(score_N: Tensor) -> Tensor:
    # A diverged model must not look like a ranking: a sort would put NaN first, a comparison would call it a loss.
    score_N = score_N.detach()
    if (unknown := int(score_N.isnan().count_nonzero())) > 0:
        first = int(score_N.isnan().nonzero()[0])
        raise ValueError(f"score_N holds {unknown} NaN of {score_N.numel()} (the first at {first}): it ranks nothing")
    return score_N


def _checked_gain(name: str, gain_N: Tensor) -> Tensor:
    allowed_N = (gain_N >= 0) & (gain_N < float("inf"))  # NaN is neither
    if not bool(allowed_N.all()):
        first = int((~allowed_N).nonzero()[0])
        raise ValueError(f"{name} holds {float(gain_N[first])} at {first}: it must be finite, and 0 or more")
    return gain_N
