"""The four losses as pure functions of tensors: sums over pairs, and how many pairs there were.

Sums and counts are kept apart because each loss is normalised by its pairs over all ranks, so that W ranks on B / W
requests each give the gradient of one rank on B requests.

Legend: R requests, C candidates (padded), A answers of this rank, B answers of all ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LABEL = -1
"""Label of an empty answer slot."""


def bpr(score_RC: Tensor, utility_RC: Tensor, mask_RC: Tensor) -> tuple[Tensor, Tensor]:
    """L_main: -log sigmoid(s_i - s_j), summed over pairs of a request with utility_i > utility_j (Rendle et al. 2009).

    Returns:
        (sum, number of pairs).
    """
    better_RCC = (utility_RC[:, :, None] > utility_RC[:, None, :]) & _both(mask_RC)
    loss_RCC = F.softplus(score_RC[:, None, :] - score_RC[:, :, None])
    return (loss_RCC * better_RCC).sum(), better_RCC.sum()


def dense_preference(score_RC: Tensor, reference_RC: Tensor, mask_RC: Tensor) -> tuple[Tensor, Tensor]:
    """L_dense: cross-entropy of s_i - s_j against sigmoid(r_i - r_j) over the unordered pairs of a request.

    The reference is a constant. Both orders of a pair have the same loss, so only i < j is counted.

    Returns:
        (sum, number of pairs).
    """
    candidates = score_RC.shape[1]
    above_CC = torch.ones(candidates, candidates, dtype=torch.bool, device=score_RC.device).triu(1)
    pair_RCC = _both(mask_RC) & above_CC
    target_RCC = (reference_RC[:, :, None] - reference_RC[:, None, :]).detach().sigmoid()
    logit_RCC = score_RC[:, :, None] - score_RC[:, None, :]
    loss_RCC = F.binary_cross_entropy_with_logits(logit_RCC, target_RCC, reduction="none")
    return (loss_RCC * pair_RCC).sum(), pair_RCC.sum()


def log_policy(score_RC: Tensor, mask_RC: Tensor, form: str) -> Tensor:
    """log pi of each candidate, (R, C), up to what cancels in a pair.

    score_difference: the score itself (the paper's literal form); slate_softmax: log-softmax over the request's
    candidates, which is blind to a user's offset; bernoulli: log sigmoid.
    """
    match form:
        case "score_difference":
            return score_RC
        case "slate_softmax":
            # A finite filler: a request without candidates has no -inf row, whose gradient would be NaN.
            return score_RC.masked_fill(~mask_RC, torch.finfo(score_RC.dtype).min).log_softmax(-1)
        case "bernoulli":
            return F.logsigmoid(score_RC)
    raise ValueError(f"losses.policy={form!r} is not allowed: score_difference, slate_softmax or bernoulli")


def answered_pairs(value_A: Tensor, label_A: Tensor, value_B: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigmoid(v+ - v-), summed over pairs of answers with label+ > label-, across requests and ranks.

    With v = reference score this is L_satis; with v = beta (log pi - log pi_ref) it is L_DPO. Each rank differentiates
    its own answers only, on both sides of a pair; over the ranks that adds up to the gradient of the whole sum.

    Args:
        value_A: this rank's values, differentiable.
        label_A: their answer codes.
        value_B: the values of all ranks, this one's included, constants.
        label_B: their answer codes, `NO_LABEL` for an empty slot.

    Returns:
        (sum over pairs whose better answer is this rank's, pairs of all ranks). The sum's gradient also has the pairs
        whose worse answer is this rank's.
    """
    value_B = value_B.detach()
    real_B = label_B != NO_LABEL
    better_AB = (label_A[:, None] > label_B) & real_B
    worse_AB = (label_A[:, None] < label_B) & real_B
    as_better = (F.softplus(value_B - value_A[:, None]) * better_AB).sum()
    as_worse = (F.softplus(value_A[:, None] - value_B) * worse_AB).sum()
    pairs = ((label_B[:, None] > label_B) & real_B[:, None] & real_B).sum()
    return as_better + (as_worse - as_worse.detach()), pairs


def _both(mask_RC: Tensor) -> Tensor:
    return mask_RC[:, :, None] & mask_RC[:, None, :]
