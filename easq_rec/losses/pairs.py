"""The pairs of candidates that the losses compare within a request.

They are known from labels. So the ranks count their pairs while the network still computes its scores.

Legend: R requests of the stream, C candidates (padded), S requests with evidence, E candidates with evidence (padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.kernels.jagged import Lists


@dataclass(frozen=True, kw_only=True)
class RequestPairs:
    """The ordered pairs (i, j) of a request's candidates, as masks that are made once when a loss asks for them."""

    utility_RC: Tensor
    """Engagement utility, zeros at padding."""
    mask_RC: Tensor
    """True at candidates, False at padding."""
    evidence_lists: Lists
    """How the candidates with evidence are distributed over requests."""
    evidence_E: Tensor
    """Log-likelihood ratio of each candidate with evidence, all requests in one vector."""

    @cached_property
    def real_RCC(self) -> Tensor:
        """True where i and j are two candidates, neither of them padding."""
        return real_pairs(self.mask_RC)

    @cached_property
    def better_RCC(self) -> Tensor:
        """True where the engagement utility of i is higher than that of j."""
        return better_pairs(self.utility_RC, self.real_RCC)

    @cached_property
    def gain_RCC(self) -> Tensor:
        """Engagement utility of i minus that of j; 0 where that is negative or at padding."""
        return positive_differences(self.utility_RC, self.mask_RC)

    @cached_property
    def evidence_SEE(self) -> Tensor:
        """Evidence for i minus evidence for j, a log-likelihood ratio; 0 where that is negative or at padding."""
        lists = self.evidence_lists
        return positive_differences(lists.pad(self.evidence_E[:, None]).squeeze(-1), lists.mask())


def real_pairs(mask_RC: Tensor) -> Tensor:
    """Pairs of two different candidates, (R, C, C). `mask_RC`: True at candidates, False at padding."""
    same_CC = torch.eye(mask_RC.shape[1], dtype=torch.bool, device=mask_RC.device)
    return mask_RC[:, :, None] & mask_RC[:, None, :] & ~same_CC


def better_pairs(utility_RC: Tensor, real_RCC: Tensor) -> Tensor:
    """Pairs whose first candidate has the higher utility, (R, C, C)."""
    return (utility_RC[:, :, None] > utility_RC[:, None, :]) & real_RCC


def positive_differences(value_RC: Tensor, mask_RC: Tensor) -> Tensor:
    """Value of the first candidate of each pair minus that of the second, (R, C, C); 0 if negative or at padding.

    Args:
        mask_RC: True at candidates, False at padding.
    """
    more_RCC = (value_RC[:, :, None] - value_RC[:, None, :]).clamp(min=0)
    return more_RCC * (mask_RC[:, :, None] & mask_RC[:, None, :])


def margins(score_RC: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j) of the ordered pairs (i, j) of a request, (R, C, C)."""
    return F.softplus(score_RC[:, None, :] - score_RC[:, :, None])
