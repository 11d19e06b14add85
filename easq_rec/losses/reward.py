"""The reward model's loss: every impression is labelled with the reward of its outcomes.

Legend: G groups (requests, or users: `losses.groups`), C candidates (padded).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import Reward
from easq_rec.losses.main_bpr import bpr
from easq_rec.losses.pairs import RequestPairs, positive_differences
from easq_rec.losses.term import LossInputs, RequestTerm


def centred_squares(score_GC: Tensor, reward_GC: Tensor, mask_GC: Tensor) -> Tensor:
    """((s - mean s) - (r - mean r))², summed over candidates, with means over the candidates of a group.

    It is least where the scores of a group differ as much as the rewards. It reads no level of a group, as the losses
    of pairs: per group it is the sum of ((s_i - s_j) - (r_i - r_j))² over unordered pairs, divided by the group's size.

    Args:
        reward_GC: constants.
        mask_GC: True at the candidates that count.
    """
    error_GC = (score_GC - reward_GC) * mask_GC
    mean_G1 = error_GC.sum(-1, keepdim=True) / mask_GC.sum(-1, keepdim=True).clamp(min=1)
    return ((error_GC - mean_G1) * mask_GC).square().sum()


class RewardTerm(RequestTerm):
    """Both forms are divided by the number of candidates, as L_main is with pairs weighed by utility."""

    def __init__(self, config: Reward) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return pairs.candidates(self.config.among).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        pairs = inputs.pairs
        mask_GC = pairs.candidates(self.config.among)
        if self.config.form == "regression":
            return centred_squares(inputs.policy_GC, pairs.reward_GC, mask_GC)
        return bpr(inputs.margin_GCC, positive_differences(pairs.reward_GC, mask_GC))
