"""A tower: small MLP experts behind a ReLU router, and linear heads.

Legend: N candidates, D token width, K experts, H hidden width, O output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import Tower
from easq_rec.config.schema import Outcome
from easq_rec.kernels.experts import mix_experts
from easq_rec.model.initial import Constant, Law, kaiming, xavier
from easq_rec.model.router import Router
from easq_rec.model.utility import ExpectedUtility, PredictedOutcomes


@dataclass(frozen=True, kw_only=True)
class TowerOutput:
    """Scores and gates."""

    score_N: Tensor
    outcomes: PredictedOutcomes | None = None
    """Prediction of each outcome; None if the tower computes its score directly."""
    gate_NK: Tensor
    """The router's ReLU output before the floor is added: zero for a closed expert (ReMoE, arXiv 2412.14711)."""
    routed_ND: Tensor | None = None
    """What the router read, a constant; None if the tower has no `Router`."""


class Experts(nn.Module):
    """K small MLPs, each Linear, ReLU, Linear, as stacked parameters. Each tower mixes them with its gates."""

    def __init__(self, count: int, dim: int, config: Tower) -> None:
        super().__init__()
        self.in_KHD = nn.Parameter(torch.empty(count, config.hidden, dim))
        self.in_KH = nn.Parameter(torch.empty(count, config.hidden))
        self.out_KOH = nn.Parameter(torch.empty(count, config.out, config.hidden))
        self.out_KO = nn.Parameter(torch.empty(count, config.out))

    def laws(self) -> Mapping[str, Law]:
        _, hidden, dim = self.in_KHD.shape
        return {
            "in_KHD": kaiming(dim),
            "in_KH": Constant(0.0),
            "out_KOH": xavier(hidden, self.out_KOH.shape[1]),
            "out_KO": Constant(0.0),
        }


class MoETower(nn.Module):
    """score = head(relu(sum over k of gate_k * expert_k(norm(h)))), over the tower's experts and shared experts.

    A single expert has no router, and its gate is always 1. With a target activity the gates of a candidate add up to
    1; without one, a gate is what the router returns.

    Args:
        shared: number of shared experts, which are an argument of `forward`.
        outcomes: the head has one output per outcome, and the score is their expected utility; None: one output.
    """

    def __init__(
        self,
        dim: int,
        config: Tower,
        *,
        shared: int = 0,
        outcomes: Sequence[Outcome] | None = None,
    ) -> None:
        super().__init__()
        count = config.experts + shared
        self.floor = config.gate_floor
        self.norm = nn.LayerNorm(dim)
        self.router = _router(dim, count, config.activity) if count > 1 else None
        self.experts = Experts(config.experts, dim, config) if config.experts else None
        # Two names: parameters of the same name start equal in every variant, so they must have the same shape.
        self.head = nn.Linear(config.out, 1) if outcomes is None else None
        self.heads = nn.Linear(config.out, len(outcomes)) if outcomes is not None else None
        self.utility = ExpectedUtility(outcomes) if outcomes is not None else None

    def laws(self) -> Mapping[str, Law]:
        if not isinstance(self.router, nn.Linear):
            return {}
        # Gates start open for most inputs, so that every expert gets gradients from the first step.
        return {"router.bias": Constant(1.0 / self.router.out_features)}

    def forward(self, h_ND: Tensor, shared: Experts | None = None, added_NO: Tensor | None = None) -> TowerOutput:
        """Scores (N,) of representations (N, D).

        Args:
            added_NO: is added to the outputs of the head.
        """
        n_ND = self.norm(h_ND)
        open_NK, gate_NK = self._gates(n_ND)
        mixed_NO = mix_experts(n_ND, gate_NK, *self._parameters_of(shared))
        score_N, outcomes = self._score(F.relu(mixed_NO), added_NO)
        routed_ND = n_ND.detach() if isinstance(self.router, Router) else None
        return TowerOutput(score_N=score_N, outcomes=outcomes, gate_NK=open_NK, routed_ND=routed_ND)

    def reference(self, h_ND: Tensor, shared: Experts | None = None, added_NO: Tensor | None = None) -> Tensor:
        """The same scores, expert by expert: the slow reference of `forward`."""
        n_ND = self.norm(h_ND)
        _, gate_NK = self._gates(n_ND)
        mixed_NO = h_ND.new_zeros(len(h_ND), self._parameters_of(shared)[-1].shape[1])
        parameters = zip(*(stacked.unbind() for stacked in self._parameters_of(shared)), strict=True)
        for k, (in_HD, in_H, out_OH, out_O) in enumerate(parameters):
            hidden_NH = F.relu(F.linear(n_ND, in_HD, in_H))
            mixed_NO = mixed_NO + gate_NK[:, k : k + 1] * F.linear(hidden_NH, out_OH, out_O)
        return self._score(F.relu(mixed_NO), added_NO)[0]

    def _gates(self, n_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(output of the router before the floor is added, gates), both (N, K)."""
        if self.router is None:
            one_N1 = n_ND.new_ones(n_ND.shape[0], 1)
            return one_N1, one_N1
        open_NK = F.relu(self.router(n_ND))
        gate_NK = open_NK + self.floor
        if isinstance(self.router, Router):
            # The number of open gates must not scale the output. Even if all are closed, the floors are not 0.
            gate_NK = gate_NK / gate_NK.sum(1, keepdim=True)
        return open_NK, gate_NK

    def _score(self, x_NO: Tensor, added_NO: Tensor | None) -> tuple[Tensor, PredictedOutcomes | None]:
        """(score, predicted outcomes) of the mixed output of the experts."""
        head = self.head or self.heads
        assert head is not None
        # In bf16, candidates with similar utility would have equal scores.
        output_NO = head(x_NO).float()
        if added_NO is not None:
            output_NO = output_NO + added_NO
        if self.utility is None:
            return output_NO.squeeze(-1), None
        outcomes = self.utility.predicted(output_NO)
        return self.utility(outcomes), outcomes

    def _parameters_of(self, shared: Experts | None) -> list[Tensor]:
        """Stacked parameters of all experts; the shared experts are last."""
        groups = [experts for experts in (self.experts, shared) if experts is not None]
        if len(groups) == 1:
            return list(groups[0].parameters())
        return [torch.cat(parts) for parts in zip(*(experts.parameters() for experts in groups), strict=True)]


def _router(dim: int, experts: int, activity: float | None) -> nn.Linear | Router:
    return nn.Linear(dim, experts) if activity is None else Router(dim, experts, activity)
