"""L_list: listwise softmax over the candidates of a group (ListNet, Cao et al. 2007).

Legend: G groups (requests, or users: `losses.groups`), C candidates (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor

from easq_rec.config.losses import Listwise
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def listwise_softmax(score_GC: Tensor, utility_GC: Tensor, mask_GC: Tensor, compared_G: Tensor) -> Tensor:
    """Cross-entropy of softmax(score) against softmax(utility), summed over groups (top-one ListNet).

    Args:
        mask_GC: True at candidates, False at padding.
        compared_G: True at the groups that count.
    """
    # The filler is finite: a row of -inf, in a group without candidates, would have NaN gradients.
    filler = torch.finfo(score_GC.dtype).min
    target_GC = utility_GC.masked_fill(~mask_GC, filler).softmax(-1) * mask_GC
    log_policy_GC = score_GC.masked_fill(~mask_GC, filler).log_softmax(-1)
    return -((target_GC * log_policy_GC).sum(-1) * compared_G).sum()


class ListwiseTerm(RequestTerm):
    """Compares the groups whose candidates differ in utility."""

    def __init__(self, config: Listwise) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return self._compared(pairs).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        pairs = inputs.pairs
        return listwise_softmax(inputs.policy_GC, pairs.utility_GC, pairs.mask_GC, self._compared(pairs))

    @staticmethod
    def _compared(pairs: RequestPairs) -> Tensor:
        return pairs.better_GCC.any(-1).any(-1)
