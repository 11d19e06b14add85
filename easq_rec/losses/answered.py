"""The pairwise logistic loss over answers, across requests and ranks.

Legend: A answers of this rank, B answers of all ranks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.answer_scale import NO_ANSWER


def answered_pairs(
    value_A: Tensor,
    label_A: Tensor,
    value_B: Tensor,
    label_B: Tensor,
    weights: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """-log sigmoid(v+ - v-), summed over pairs of answers with label+ > label-, across requests and ranks.

    Each rank differentiates the values of its answers only, on both sides of a pair. Summed over the ranks, this is the
    gradient of the whole sum.

    Args:
        value_A: this rank's values, differentiable.
        label_A: their answer codes; a higher code is a better answer.
        value_B: the values of all ranks, including this one, constants.
        label_B: their answer codes, `NO_ANSWER` for an empty slot.
        weights: (weights of this rank's answers, of those of all ranks); a pair weighs the product of both. None: all
            pairs weigh 1.

    Returns:
        (sum over pairs whose better answer belongs to this rank, number or weight of the pairs of all ranks). The
        gradient of the sum also covers the pairs whose worse answer belongs to this rank.
    """
    real_B = label_B != NO_ANSWER
    # 1: this rank's answer is the better one, -1: the worse one, 0: no pair.
    order_AB = (label_A[:, None] - label_B).sign() * real_B
    loss_AB = F.softplus(order_AB * (value_B.detach() - value_A[:, None])) * order_AB.abs()
    if weights is not None:
        loss_AB = loss_AB * (weights[0][:, None] * weights[1])
    as_worse = (loss_AB.detach() * (order_AB < 0)).sum()
    pairs_BB = better_answers(label_B)
    if weights is not None:
        return loss_AB.sum() - as_worse, (pairs_BB * (weights[1][:, None] * weights[1])).sum()
    return loss_AB.sum() - as_worse, pairs_BB.sum()


def better_answers(label_B: Tensor) -> Tensor:
    """True where the first answer of a pair is the better one, (B, B); never at an empty slot."""
    real_B = label_B != NO_ANSWER
    return (label_B[:, None] > label_B) & real_B[:, None] & real_B
