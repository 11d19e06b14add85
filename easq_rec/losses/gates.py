"""The gate penalty: an adaptive L1 norm that steers the share of open gates (ReMoE, arXiv 2412.14711).

A property of a tower (`Tower.activity`) rather than one of `easq_rec.config.Losses`.

Legend: N candidates, K experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from easq_rec.losses.ranks import Ranks

WEIGHT, FACTOR = 1e-8, 1.2
"""Initial and least weight of the penalty, and the factor by which it changes per step (ReMoE)."""


class GatePenalty(nn.Module):
    """The weight rises by a fifth while more gates are open than wanted, and falls otherwise.

    Args:
        activity: share of open gates wanted.
    """

    weight: Tensor

    def __init__(self, activity: float, ranks: Ranks) -> None:
        super().__init__()
        self.activity = activity
        self.ranks = ranks
        # Part of the checkpoint: the weight finds its level over many steps.
        self.register_buffer("weight", torch.tensor(WEIGHT))

    def forward(self, gate_NK: Tensor) -> Tensor:
        """The penalty: weight times the sum of this rank's gates over the number of gates of all ranks."""
        opened, count = self.ranks.sum(torch.stack([(gate_NK > 0).sum(), (gate_NK >= 0).sum()]).to(gate_NK.dtype))
        with torch.no_grad():
            factor = torch.where(opened > self.activity * count, FACTOR, 1 / FACTOR)
            self.weight.mul_(factor).clamp_(WEIGHT, 1.0)
        return self.weight.clone() * gate_NK.sum() / count.clamp(min=1)
