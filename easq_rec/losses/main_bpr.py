"""L_main: pairs of a group's candidates, ordered by engagement utility.

Legend: G groups (requests, or users: `losses.groups`), C candidates (padded).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import MainBPR
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def bpr(margin_GCC: Tensor, weight_GCC: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j), summed over pairs of a group with utility_i > utility_j (Rendle et al. 2009).

    Args:
        margin_GCC: `margins` of the policy scores.
        weight_GCC: weights of these pairs, 0 or False at all others.
    """
    return (margin_GCC * weight_GCC).sum()


class MainBPRTerm(RequestTerm):
    def __init__(self, config: MainBPR) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        if self.config.pairs == "utility":
            return pairs.candidates(self.config.among).sum()
        return self._weight(pairs).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        return bpr(inputs.margin_GCC, self._weight(inputs.pairs))

    def _weight(self, pairs: RequestPairs) -> Tensor:
        """(G, C, C), 0 or False at pairs that are not compared."""
        weight_GCC = pairs.gain_GCC if self.config.pairs == "utility" else pairs.better_GCC
        return weight_GCC if self.config.among == "all" else weight_GCC * pairs.triggered_GCC
