"""Calibration of the policy score's differences as probabilities of higher engagement.

BPR does not depend on the level of a request's scores, so a score is not a probability, and a fitted map to
probabilities (Platt, isotonic) would measure the map. BPR fits sigma(y_i - y_j) as the probability that candidate i has
the higher utility in a pair of one request with different utilities. This module compares that probability with the
observed frequency.

The expected calibration error sums absolute distances, so noise keeps it above 0 if there are few pairs; the signed gap
has no such bias. Both are computed for the policy score even if a fused score is served, whose scale is arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from easq_rec.evaluation.metrics.segments import checked_gain, checked_score, request_of

PAIR_CHUNK = 1 << 20
"""Cells of one padded block of pairs; bounds the memory (a few bytes per cell)."""
BINS = 10
"""Bins of equal width over 0.5..1, the predicted probability of the preferred candidate."""


class PairCalibration(NamedTuple):
    """Sums over the within-request pairs whose utilities differ, by request and bin K. float64."""

    predicted_RK: Tensor
    """Sum of sigma(|y_i - y_j|), the predicted probability of the preferred candidate."""
    observed_RK: Tensor
    """Pairs whose preferred candidate has the higher utility; a pair of equal scores counts half."""
    pairs_RK: Tensor


def pair_calibration(score_N: Tensor, utility_N: Tensor, lengths_R: Tensor) -> PairCalibration:
    """Predicted and observed preferences of every request.

    Requests are sorted by length and padded to the longest of their chunk; a block of pairs has at most about
    `PAIR_CHUNK` cells. Time grows with the square of a request's candidates.

    Raises:
        ValueError: shapes that disagree, NaN scores, or utilities that are negative or not finite.
    """
    request_of(lengths_R, score_N=score_N, utility_N=utility_N)
    score_N = checked_score(score_N)
    # Padding points to one extra item with NaN: comparisons with NaN are false, so it forms no pair.
    utility_N = checked_gain("utility_N", utility_N)
    utility_N = utility_N if utility_N.is_floating_point() else utility_N.double()
    utility_N = torch.cat([utility_N, utility_N.new_full((1,), float("nan"))])
    score_N = torch.cat([score_N, score_N.new_zeros(1)])
    size = lengths_R.numel() * BINS
    total = [torch.zeros(size, dtype=torch.float64, device=score_N.device) for _ in range(3)]
    for row_P, index_PC in _padded_chunks(lengths_R):
        score_PC, utility_PC = score_N[index_PC], utility_N[index_PC]
        rows, width = index_PC.shape
        tile = max(1, PAIR_CHUNK // index_PC.numel())
        for score_PI, utility_PI in zip(torch.split(score_PC, tile, 1), torch.split(utility_PC, tile, 1), strict=True):
            # Each pair with different utilities once: I has the higher utility.
            pair_M = (utility_PI[:, :, None] > utility_PC[:, None, :]).flatten().nonzero().squeeze(1)
            margin_M = (score_PI[:, :, None] - score_PC[:, None, :]).flatten()[pair_M]
            margin_M = margin_M.nan_to_num(nan=0.0)  # two scores of the same infinity
            predicted_M = margin_M.abs().sigmoid().double()
            observed_M = (margin_M > 0).double() + (margin_M == 0) * 0.5
            bin_M = ((predicted_M - 0.5) * (2 * BINS)).long().clamp_(max=BINS - 1)
            cell_M = pair_M // (score_PI.shape[1] * width) * BINS + bin_M
            cell_PK = (row_P[:, None] * BINS + torch.arange(BINS, device=row_P.device)).flatten()
            for sums, value_M in zip(total, (predicted_M, observed_M, None), strict=True):
                sums.index_add_(0, cell_PK, torch.bincount(cell_M, value_M, minlength=rows * BINS).double())
    predicted, observed, pairs = (sums.view(-1, BINS) for sums in total)
    return PairCalibration(predicted, observed, pairs)


def _padded_chunks(lengths_R: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(requests (P,), their candidates' indices (P, C)), chunk by chunk; padding holds the index N.

    Longest first, so that a chunk's requests have similar lengths and little padding.
    """
    padding = int(lengths_R.sum())
    start_R = lengths_R.cumsum(0) - lengths_R
    lengths_R, order_R = lengths_R.sort(descending=True, stable=True)
    start_R = start_R[order_R]
    done = 0
    # A request with one candidate has no pair.
    while done < lengths_R.numel() and (width := int(lengths_R[done])) > 1:
        rows = slice(done, done + max(1, PAIR_CHUNK // width**2))
        column_C = torch.arange(width, device=lengths_R.device)
        index_PC = start_R[rows, None] + column_C
        yield order_R[rows], index_PC.masked_fill_(column_C >= lengths_R[rows, None], padding)
        done = rows.stop
