"""The losses as pure functions of tensors: sums over pairs.

Each is normalised by its pairs over all ranks (`easq_rec.losses.pairs`), so that W ranks on B / W requests each give
the gradient of one rank on B requests.

Legend: R requests, C candidates (padded), A answers of this rank, B answers of all ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.errors import UserError

NO_LABEL = -1
"""Label of an empty answer slot."""


def margins(score_RC: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j) of the ordered pairs of a request, (R, C, C), which L_main and L_dense weigh."""
    return F.softplus(score_RC[:, None, :] - score_RC[:, :, None])


def bpr(margin_RCC: Tensor, better_RCC: Tensor) -> Tensor:
    """L_main: -log sigmoid(s_i - s_j), summed over pairs of a request with utility_i > utility_j (Rendle et al. 2009).

    Args:
        margin_RCC: `margins` of the policy scores.
        better_RCC: True at these pairs.
    """
    return (margin_RCC * better_RCC).sum()


def dense_preference(margin_RCC: Tensor, real_RCC: Tensor, reference_RC: Tensor, temperature: float = 1.0) -> Tensor:
    """L_dense: cross-entropy of s_i - s_j against sigmoid((r_i - r_j) / t), over the unordered pairs of a request.

    Written over ordered pairs it is L_main with soft preferences: the two orders of a pair weigh sigmoid(r_i - r_j) and
    sigmoid(r_j - r_i), which add up to one. The reference is a constant.

    Args:
        margin_RCC: `margins` of the policy scores.
        real_RCC: True at pairs of candidates.
    """
    reference_RC = reference_RC.detach() / temperature
    preference_RCC = (reference_RC[:, :, None] - reference_RC[:, None, :]).sigmoid_() * real_RCC
    return (margin_RCC * preference_RCC).sum()


def evidence(score_RC: Tensor, evidence_RCC: Tensor) -> Tensor:
    """L_evidence: outcomes as noisy views of answers that nobody gave, summed over pairs of a request with e_i > e_j.

    Suppose that of the two candidates one would be called satisfying and the other not, and that i is that one with
    probability sigmoid(s_i - s_j), as in L_satis. With the log-likelihood ratio e_i - e_j of what was seen of both, the
    likelihood of having seen it is sigmoid(d) exp(e) + sigmoid(-d) for d = s_i - s_j and e = e_i - e_j, up to a factor
    without s. Its negative logarithm is softplus(d) - softplus(d + e), from 0 down to -e. The gradient, sigmoid(d) -
    sigmoid(d + e), is a step of expectation maximisation (Dempster, Laird and Rubin 1977): scores move by what was
    seen, the less the surer they are already, and not at all where it tells nothing.

    Args:
        score_RC: satisfaction scores.
        evidence_RCC: e_i - e_j of the pairs, a constant; 0 for those that are not compared, which then add nothing.
    """
    difference_RCC = score_RC[:, :, None] - score_RC[:, None, :]
    return (F.softplus(difference_RCC) - F.softplus(difference_RCC + evidence_RCC)).sum()


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
    raise UserError(f"losses.policy={form!r} is not allowed: score_difference, slate_softmax or bernoulli")


def bernoulli_kl(policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """KL of sigmoid(policy) from sigmoid(reference) in nats, elementwise: how far scores are apart as probabilities."""
    return policy_N.sigmoid() * (policy_N - reference_N) + F.softplus(reference_N) - F.softplus(policy_N)


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
    real_B = label_B != NO_LABEL
    # 1: this rank's answer is the better one, -1: the worse one, 0: no pair.
    order_AB = (label_A[:, None] - label_B).sign() * real_B
    loss_AB = F.softplus(order_AB * (value_B.detach() - value_A[:, None])) * order_AB.abs()
    as_worse = (loss_AB.detach() * (order_AB < 0)).sum()
    pairs = ((label_B[:, None] > label_B) & real_B[:, None] & real_B).sum()
    return loss_AB.sum() - as_worse, pairs
