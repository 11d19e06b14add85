"""The weighted sum of the losses.

Legend: R requests, C candidates (padded), N candidates, A answers of this rank, B answers of all ranks, K experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from easq_rec.config import Losses
from easq_rec.data.batch import RequestBatch
from easq_rec.losses import functions as losses
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.ranks import Pending, Ranks
from easq_rec.model.network import NetworkOutput

STEERING = ("dpo", "dense")
"""Losses by which the reference steers the policy."""
GATE_WEIGHT, GATE_FACTOR = 1e-8, 1.2
"""Where the weight of a gate penalty starts, and by what it changes per step (ReMoE, arXiv 2412.14711)."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Constants of one training step. A loss is this rank's part: their sum over ranks is the mean over all pairs."""

    loss: Tensor
    """What is differentiated, scaled for the mean of gradients over ranks."""
    losses: dict[str, Tensor]
    """Of each part by its name in the config (`main`, `satisfaction`, `dpo`, ...), before its weight."""
    pairs_main: Tensor
    """Over all ranks."""
    pairs_answered: Tensor
    divergence: Tensor | None
    """Mean KL of sigmoid(policy score) from sigmoid(reference score) over all ranks; None where nothing bounds it."""
    network: NetworkOutput


class Objective(nn.Module):
    """The weighted sum of the losses (`easq_rec.config.Losses`), each normalised by its pairs over all ranks.

    Args:
        slots: answers per rank and step at most; all ranks exchange that many values.
        activity: share of open gates wanted, of the towers for which one is.
    """

    def __init__(
        self,
        config: Losses,
        *,
        slots: int,
        ranks: Ranks,
        activity: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.config = config
        self.activity = dict(activity)
        for name in self.activity:
            # Part of the checkpoint: the weight has found its level over many steps.
            self.register_buffer(f"gate_weight_{name}", torch.tensor(GATE_WEIGHT))
        self.slots = slots
        self.ranks = ranks

    def forward(
        self, output: NetworkOutput, batch: RequestBatch, pairs: RequestPairs, *, steered: bool = True
    ) -> StepOutput:
        """The losses of one step.

        Args:
            steered: L_DPO and L_dense are part of the loss; the trainer leaves them out during the warm-up.
        """
        config, lists = self.config, output.candidates
        score_RC = lists.pad(output.main.score_N[:, None]).squeeze(-1)
        mask_RC = lists.mask()
        zero = score_RC.new_zeros(())
        count = batch.stream.requests
        reference_RC = None
        if output.reference is not None:
            reference_RC = lists.pad(output.reference.score_N[:, None]).squeeze(-1)
        values_A = self._answered_values(output, score_RC, reference_RC, mask_RC, batch)
        values_B = self._start_exchange(values_A, batch.answer_A) if values_A else None
        margin_RCC = losses.margins(score_RC[:count])
        sum_main, sum_dense = losses.bpr(margin_RCC, pairs.better_RCC), zero
        if reference_RC is not None and config.dense and steered:
            sum_dense = losses.dense_preference(
                margin_RCC, pairs.real_RCC, reference_RC[:count], config.dense_temperature
            )
        totals = pairs.totals()
        pairs_main, pairs_dense, pairs_evidence = totals.clamp(min=1)
        parts = {"main": sum_main / pairs_main}
        weights = {"main": 1.0}
        # What is there in some steps alone weighs more there.
        rare, steering = config.align_every, 1.0 if steered else 0.0
        if output.answered is not None:
            parts |= {"satisfaction": zero, "dpo": zero}
            weights |= {"satisfaction": rare * config.satisfaction, "dpo": rare * steering * config.dpo}
        if output.reference is not None:
            parts["dense"] = sum_dense / pairs_dense
            weights["dense"] = rare * steering * config.dense
        if output.judged is not None:
            # Beside what they are compared by. A column of its own would do, but for the rounding of a gradient's sum:
            # runs would no longer be those that results were recorded of.
            score_SE = pairs.told.pad(torch.stack([output.judged.score_N, batch.evidence_E], dim=1))[..., 0]
            parts["evidence"] = losses.evidence(score_SE, pairs.told_SEE) / pairs_evidence
            weights["evidence"] = rare * config.evidence
        if config.direct and batch.aligned:
            parts["direct"], weights["direct"] = zero, rare * config.direct
        pairs_answered = totals.new_zeros(())
        if values_B is not None:
            found, pairs_answered = self._answered(values_A, batch.answer_A, values_B())
            parts |= found
        divergence = self._divergence(output, batch.stream.candidates)
        if divergence is not None and config.divergence_bound is not None:
            # No more than the reference can vouch for: the step's steering shrinks as the policy runs away from it.
            lowered = (config.divergence_bound / divergence).clamp(max=1.0)
            parts = {name: part * lowered if name in STEERING else part for name, part in parts.items()}
        for name, gate_NK in self._regularised(output):
            parts[f"gates_{name}"], weights[f"gates_{name}"] = self._gate_penalty(name, gate_NK), 1.0
        # A weight of 0 keeps a loss in the graph: its parameters have gradients, and AdamW moves them, on any rank.
        loss = sum(
            (weights[name] * part for name, part in parts.items() if weights[name] or name not in STEERING), start=zero
        )
        return StepOutput(
            loss=loss * self.ranks.size,
            losses={name: part.detach() for name, part in parts.items()},
            pairs_main=totals[0],
            pairs_answered=pairs_answered,
            divergence=divergence,
            network=output,
        )

    def _regularised(self, output: NetworkOutput) -> Iterator[tuple[str, Tensor]]:
        """The towers with a target activity, with their gates."""
        towers = {"main": output.main, "satisfaction": output.answered}
        for name in self.activity:
            tower = towers[name]
            if tower is not None:
                yield name, tower.gate_NK

    def _gate_penalty(self, name: str, gate_NK: Tensor) -> Tensor:
        """Adaptive L1 (ReMoE): the weight rises by a fifth while more gates are open than wanted, else falls."""
        opened, count = self.ranks.sum(torch.stack([(gate_NK > 0).sum(), (gate_NK >= 0).sum()]).to(gate_NK.dtype))
        weight: Tensor = getattr(self, f"gate_weight_{name}")
        with torch.no_grad():
            factor = torch.where(opened > self.activity[name] * count, GATE_FACTOR, 1 / GATE_FACTOR)
            weight.mul_(factor).clamp_(GATE_WEIGHT, 1.0)
        return weight.clone() * gate_NK.sum() / count.clamp(min=1)

    def _answered_values(
        self,
        output: NetworkOutput,
        score_RC: Tensor,
        reference_RC: Tensor | None,
        mask_RC: Tensor,
        batch: RequestBatch,
    ) -> dict[str, Tensor]:
        """For each loss over answered pairs what it compares, (A,)."""
        config, values_A = self.config, {}
        if output.answered is not None:
            values_A["satisfaction"] = output.answered.score_N
            if config.dpo:
                assert reference_RC is not None
                values_A["dpo"] = self._margin(score_RC, reference_RC, mask_RC, batch)
        if config.direct and batch.aligned:
            values_A["direct"] = output.main.score_N[batch.answered_A]
        return values_A

    def _margin(self, score_RC: Tensor, reference_RC: Tensor, mask_RC: Tensor, batch: RequestBatch) -> Tensor:
        """beta (log pi - log pi_ref) of the answered candidates, (A,)."""
        policy = self.config.policy
        log_ratio_RC = losses.log_policy(score_RC, mask_RC, policy) - losses.log_policy(
            reference_RC.detach(), mask_RC, policy
        )
        offsets_R1 = batch.candidate_offsets_R1
        request_A = torch.bucketize(batch.answered_A, offsets_R1[1:], right=True)
        return self.config.beta * log_ratio_RC[request_A, batch.answered_A - offsets_R1[request_A]]

    def _start_exchange(self, values_A: dict[str, Tensor], label_A: Tensor) -> Pending:
        """The values of all ranks' answers with their labels, (X, B)."""
        rows = [*values_A.values(), label_A.to(next(iter(values_A.values())).dtype)]
        return self.ranks.start_gather(torch.stack(rows).detach(), self.slots, losses.NO_LABEL)

    def _answered(
        self, values_A: dict[str, Tensor], label_A: Tensor, rows_XB: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """(each loss over answered pairs, number of pairs), by what `_start_exchange` has brought."""
        *values_B, label_B = rows_XB
        found, pairs = {}, label_A.new_zeros(())
        for (name, value_A), value_B in zip(values_A.items(), values_B, strict=True):
            total, pairs = losses.answered_pairs(value_A, label_A, value_B, label_B)
            found[name] = total / pairs.clamp(min=1)
        return found, pairs

    def _divergence(self, output: NetworkOutput, candidates: int) -> Tensor | None:
        """Mean over the stream's candidates of all ranks."""
        if output.reference is None or self.config.divergence_bound is None:
            return None
        policy_N, reference_N = output.main.score_N[:candidates].detach(), output.reference.score_N[:candidates]
        total = losses.bernoulli_kl(policy_N, reference_N).sum()
        total, count = self.ranks.sum(torch.stack([total, total.new_full((), float(candidates))]))
        return total / count.clamp(min=1)
