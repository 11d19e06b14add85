"""L_dense: the reference annotates every pair of a group.

Legend: G groups (requests, or users: `losses.groups`), C candidates (padded).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import Dense
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def dense_preference(margin_GCC: Tensor, real_GCC: Tensor, reference_GC: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of s_i - s_j against sigmoid((r_i - r_j) / t), summed over the unordered pairs of a group.

    Over ordered pairs this is L_main with soft preferences: the two orders of a pair have the weights
    sigmoid(r_i - r_j) and sigmoid(r_j - r_i), whose sum is one. The reference is a constant.

    Args:
        margin_GCC: `margins` of the policy scores.
        real_GCC: True at pairs of candidates.
    """
    reference_GC = reference_GC.detach() / temperature
    preference_GCC = (reference_GC[:, :, None] - reference_GC[:, None, :]).sigmoid_() * real_GCC
    return (margin_GCC * preference_GCC).sum()


def half_preference(margin_GCC: Tensor, real_GCC: Tensor) -> Tensor:
    """The same without a reference: every preference is 1/2. Least where all candidates of a group have one score."""
    return 0.5 * (margin_GCC * real_GCC).sum()


class DenseTerm(RequestTerm):
    def __init__(self, config: Dense) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return self._compared(pairs).sum() // 2

    def total(self, inputs: LossInputs) -> Tensor:
        compared_GCC = self._compared(inputs.pairs)
        if self.config.target == "half":
            return half_preference(inputs.margin_GCC, compared_GCC)
        return dense_preference(inputs.margin_GCC, compared_GCC, inputs.reference_GC, self.config.temperature)

    def _compared(self, pairs: RequestPairs) -> Tensor:
        """True at the ordered pairs that are compared, (G, C, C)."""
        return pairs.real_GCC if self.config.among == "all" else pairs.triggered_GCC
