"""The pairs of candidates that the losses compare within a group: a request, or the requests of a user.

They are known from labels. So the ranks count their pairs while the network still computes its scores.

Legend: G groups of the stream's candidates, C candidates (padded), N the stream's candidates, S groups with evidence,
E candidates with evidence (padded), O outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.losses import Among
from easq_rec.kernels.jagged import Lists
from easq_rec.losses.groups import ComparisonGroups


@dataclass(frozen=True, kw_only=True)
class RequestPairs:
    """The ordered pairs (i, j) of a group's candidates, as masks that are made once when a loss asks for them."""

    groups: ComparisonGroups
    """The stream's candidates as they are compared."""
    utility_GC: Tensor
    """Engagement utility, with the weights of training; zeros at padding."""
    utility_O: Tensor
    """Weight of each outcome in it."""
    mask_GC: Tensor
    """True at candidates, False at padding."""
    evidence_lists: Lists
    """How the candidates with evidence are distributed over groups."""
    evidence_E: Tensor
    """Log-likelihood ratio of each candidate with evidence, all groups in one vector."""
    triggered_N: Tensor | None = None
    """Whether each candidate has the schema's trigger outcome; None: the schema has no trigger."""
    reward_N: Tensor | None = None
    """Reward of each candidate; None in a step without rewards."""

    def candidates(self, among: Among) -> Tensor:
        """True at the candidates that a loss compares, False at others and at padding, (G, C)."""
        return self.mask_GC if among == "all" else self.triggered_GC

    @cached_property
    def triggered_GC(self) -> Tensor:
        """True at candidates with the trigger outcome."""
        assert self.triggered_N is not None, "among='triggered' needs a schema with a trigger"
        # FBGEMM pads no booleans.
        return self.groups.pad(self.triggered_N.float()) > 0

    @cached_property
    def reward_GC(self) -> Tensor:
        """Rewards, zeros at padding."""
        assert self.reward_N is not None, "a loss reads rewards, but the batch has none"
        return self.groups.pad(self.reward_N)

    @cached_property
    def real_GCC(self) -> Tensor:
        """True where i and j are two candidates, neither of them padding."""
        return real_pairs(self.mask_GC)

    @cached_property
    def better_GCC(self) -> Tensor:
        """True where the engagement utility of i is higher than that of j."""
        return better_pairs(self.utility_GC, self.real_GCC)

    @cached_property
    def gain_GCC(self) -> Tensor:
        """Engagement utility of i minus that of j; 0 where that is negative or at padding."""
        return positive_differences(self.utility_GC, self.mask_GC)

    @cached_property
    def triggered_GCC(self) -> Tensor:
        """True where i and j are two candidates with the trigger outcome."""
        return real_pairs(self.triggered_GC)

    @cached_property
    def evidence_SEE(self) -> Tensor:
        """Evidence for i minus evidence for j, a log-likelihood ratio; 0 where that is negative or at padding."""
        lists = self.evidence_lists
        return positive_differences(lists.pad(self.evidence_E[:, None]).squeeze(-1), lists.mask())


def real_pairs(mask_GC: Tensor) -> Tensor:
    """Pairs of two different candidates, (G, C, C). `mask_GC`: True at candidates, False at padding."""
    same_CC = torch.eye(mask_GC.shape[1], dtype=torch.bool, device=mask_GC.device)
    return mask_GC[:, :, None] & mask_GC[:, None, :] & ~same_CC


def better_pairs(utility_GC: Tensor, real_GCC: Tensor) -> Tensor:
    """Pairs whose first candidate has the higher utility, (G, C, C)."""
    return (utility_GC[:, :, None] > utility_GC[:, None, :]) & real_GCC


def positive_differences(value_GC: Tensor, mask_GC: Tensor) -> Tensor:
    """Value of the first candidate of each pair minus that of the second, (G, C, C); 0 if negative or at padding.

    Args:
        mask_GC: True at candidates, False at padding.
    """
    more_GCC = (value_GC[:, :, None] - value_GC[:, None, :]).clamp(min=0)
    return more_GCC * (mask_GC[:, :, None] & mask_GC[:, None, :])


def margins(score_GC: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j) of the ordered pairs (i, j) of a group, (G, C, C)."""
    return F.softplus(score_GC[:, None, :] - score_GC[:, :, None])
