"""L_main: pairs of a request's candidates, ordered by engagement utility.

Legend: R requests, C candidates (padded).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import MainBPR
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def bpr(margin_RCC: Tensor, weight_RCC: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j), summed over pairs of a request with utility_i > utility_j (Rendle et al. 2009).

    Args:
        margin_RCC: `margins` of the policy scores.
        weight_RCC: weights of these pairs, 0 or False at all others.
    """
    return (margin_RCC * weight_RCC).sum()


class MainBPRTerm(RequestTerm):
    def __init__(self, config: MainBPR) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return pairs.mask_RC.sum() if self.config.pairs == "utility" else pairs.better_RCC.sum()

    def total(self, inputs: LossInputs) -> Tensor:
        pairs = inputs.pairs
        return bpr(inputs.margin_RCC, pairs.gain_RCC if self.config.pairs == "utility" else pairs.better_RCC)
