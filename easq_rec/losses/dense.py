"""L_dense: the reference annotates every pair of a request.

Legend: R requests, C candidates (padded).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import Dense
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def dense_preference(margin_RCC: Tensor, real_RCC: Tensor, reference_RC: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of s_i - s_j against sigmoid((r_i - r_j) / t), summed over the unordered pairs of a request.

    Over ordered pairs this is L_main with soft preferences: the two orders of a pair have the weights
    sigmoid(r_i - r_j) and sigmoid(r_j - r_i), whose sum is one. The reference is a constant.

    Args:
        margin_RCC: `margins` of the policy scores.
        real_RCC: True at pairs of candidates.
    """
    reference_RC = reference_RC.detach() / temperature
    preference_RCC = (reference_RC[:, :, None] - reference_RC[:, None, :]).sigmoid_() * real_RCC
    return (margin_RCC * preference_RCC).sum()


class DenseTerm(RequestTerm):
    def __init__(self, config: Dense) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return pairs.real_RCC.sum() // 2

    def total(self, inputs: LossInputs) -> Tensor:
        reference_RC, temperature = inputs.stream_reference_RC, self.config.temperature
        return dense_preference(inputs.margin_RCC, inputs.pairs.real_RCC, reference_RC, temperature)
