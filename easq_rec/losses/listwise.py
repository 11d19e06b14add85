"""L_list: listwise softmax over the candidates of a request (ListNet, Cao et al. 2007).

Legend: R requests, C candidates (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor

from easq_rec.config.losses import Listwise
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def listwise_softmax(score_RC: Tensor, utility_RC: Tensor, mask_RC: Tensor, compared_R: Tensor) -> Tensor:
    """Cross-entropy of softmax(score) against softmax(utility), summed over requests (top-one ListNet).

    Args:
        mask_RC: True at candidates, False at padding.
        compared_R: True at the requests that count.
    """
    # The filler is finite: a row of -inf, in a request without candidates, would have NaN gradients.
    filler = torch.finfo(score_RC.dtype).min
    target_RC = utility_RC.masked_fill(~mask_RC, filler).softmax(-1) * mask_RC
    log_policy_RC = score_RC.masked_fill(~mask_RC, filler).log_softmax(-1)
    return -((target_RC * log_policy_RC).sum(-1) * compared_R).sum()


class ListwiseTerm(RequestTerm):
    """Compares the requests whose candidates differ in utility."""

    def __init__(self, config: Listwise) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return self._compared(pairs).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        pairs = inputs.pairs
        return listwise_softmax(inputs.stream_policy_RC, pairs.utility_RC, pairs.mask_RC, self._compared(pairs))

    @staticmethod
    def _compared(pairs: RequestPairs) -> Tensor:
        return pairs.better_RCC.any(-1).any(-1)
