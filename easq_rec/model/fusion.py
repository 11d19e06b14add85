"""The fused score, with which the satisfaction tower takes part in online ranking.

Shape suffixes: R requests, N candidates of all requests, flat, ordered by request.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fused_scores(policy_N: Tensor, reference_N: Tensor, lengths_R: Tensor, weight: float) -> Tensor:
    """z(policy) + weight * z(reference), (N,) float64.

    Both losses determine only differences within a request, neither level nor scale, so each score is standardised
    within the request before the sum. For the same reason fused scores of different requests are not comparable.

    Args:
        policy_N, reference_N: the two scores; higher is better.
        lengths_R: candidates per request (int64; 0 allowed).
        weight: 0 keeps the order of the policy score.
    """
    return standardised(policy_N, lengths_R) + weight * standardised(reference_N, lengths_R)


def standardised(score_N: Tensor, lengths_R: Tensor) -> Tensor:
    """Scores minus their request's mean, divided by its population standard deviation, (N,) float64.

    A request with equal scores, or with one candidate, gets zeros.
    """
    score_N = score_N.double()
    requests, items = lengths_R.numel(), score_N.numel()
    request_R = torch.arange(requests, device=lengths_R.device)
    request_N = request_R.repeat_interleave(lengths_R, output_size=items)
    zero_R, count_R = score_N.new_zeros(requests), lengths_R.double()
    mean_R = zero_R.index_add(0, request_N, score_N) / count_R
    centred_N = score_N - mean_R[request_N]
    spread_R = (zero_R.index_add(0, request_N, centred_N.square()) / count_R).sqrt()
    # The mean of equal scores is rounded, so their computed spread may not be 0: equality is tested directly.
    lowest_R = zero_R.scatter_reduce(0, request_N, score_N, "amin", include_self=False)
    highest_R = zero_R.scatter_reduce(0, request_N, score_N, "amax", include_self=False)
    flat_N = (lowest_R == highest_R)[request_N]
    return torch.where(flat_N, 0.0, centred_N / spread_R[request_N])
