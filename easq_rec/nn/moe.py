"""A tower: small MLP experts behind a ReLU router, and a linear head.

Legend: N candidates, D token width, K experts, H hidden width, O output width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import Tower
from easq_rec.nn.experts import mix_experts


@dataclass(frozen=True, kw_only=True)
class TowerOutput:
    """Scores, and the gates behind them."""

    score_N: Tensor
    gate_NK: Tensor
    """The router's ReLU output before the floor: zero where an expert is closed (ReMoE, arXiv 2412.14711)."""


class MoETower(nn.Module):
    """score = head(relu(sum over k of gate_k * expert_k(norm(h)))), expert_k = Linear, ReLU, Linear."""

    def __init__(self, dim: int, config: Tower) -> None:
        super().__init__()
        experts, hidden, out = config.experts, config.hidden, config.out
        self.floor = config.gate_floor
        self.norm = nn.LayerNorm(dim)
        self.router = nn.Linear(dim, experts)
        self.in_KHD = nn.Parameter(torch.empty(experts, hidden, dim))
        self.in_KH = nn.Parameter(torch.zeros(experts, hidden))
        self.out_KOH = nn.Parameter(torch.empty(experts, out, hidden))
        self.out_KO = nn.Parameter(torch.zeros(experts, out))
        self.head = nn.Linear(out, 1)
        # Gates start open for about all inputs, so that every expert gets gradients from the first step.
        nn.init.constant_(self.router.bias, 1.0 / experts)
        for expert in range(experts):
            nn.init.kaiming_uniform_(self.in_KHD[expert], nonlinearity="relu")
            nn.init.xavier_uniform_(self.out_KOH[expert])

    def forward(self, h_ND: Tensor) -> TowerOutput:
        """Scores (N,) of representations (N, D)."""
        n_ND = self.norm(h_ND)
        open_NK = F.relu(self.router(n_ND))
        gate_NK = open_NK + self.floor
        mixed_NO = mix_experts(n_ND, gate_NK, self.in_KHD, self.in_KH, self.out_KOH, self.out_KO)
        return TowerOutput(score_N=self.head(F.relu(mixed_NO)).squeeze(-1), gate_NK=open_NK)

    def reference(self, h_ND: Tensor) -> Tensor:
        """The same scores, expert by expert: the slow reference of `forward`."""
        n_ND = self.norm(h_ND)
        gate_NK = F.relu(self.router(n_ND)) + self.floor
        mixed_NO = h_ND.new_zeros(len(h_ND), self.out_KO.shape[1])
        for k in range(len(self.in_KH)):
            hidden_NH = F.relu(F.linear(n_ND, self.in_KHD[k], self.in_KH[k]))
            mixed_NO = mixed_NO + gate_NK[:, k : k + 1] * F.linear(hidden_NH, self.out_KOH[k], self.out_KO[k])
        return self.head(F.relu(mixed_NO)).squeeze(-1)
