"""The ranker, and the module with its losses that DistributedModelParallel wraps.

The ranker never sees a label, so serving uses it alone. Legend: R requests, C candidates (padded), N candidates,
A answers of this rank, B answers of all ranks, K experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from easq_rec import losses
from easq_rec.config import Config, Losses
from easq_rec.data.batch import RequestBatch
from easq_rec.nn.embeddings import RequestEmbeddings
from easq_rec.nn.network import NetworkOutput, RankingNetwork


class Ranks(Protocol):
    """What the losses ask of the processes that train together. The runtime provides the real ones."""

    size: int

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks."""

    def gather(self, value_XA: Tensor, room: int, fill: float) -> Tensor:
        """The columns of all ranks, (X, B); each has at most `room` of them, and missing ones may come as `fill`."""


class OneRank:
    """A process on its own."""

    size = 1

    def sum(self, value: Tensor) -> Tensor:
        return value

    def gather(self, value_XA: Tensor, room: int, fill: float) -> Tensor:
        return value_XA


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the ranker says of the N candidates of a batch."""

    main_N: Tensor
    """Policy score: what is served."""
    satisfaction_N: Tensor | None
    """Reference score; None without a satisfaction tower."""


class Ranker(nn.Module):
    """Embedding tables and dense network: RequestBatch to scores."""

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__()
        self.embeddings = RequestEmbeddings(config.schema, device)
        self.network = RankingNetwork(
            config.schema,
            config.model,
            max_history=config.data.max_history,
            policy_on_replayed=config.losses.dpo > 0,
        )

    def forward(self, batch: RequestBatch) -> NetworkOutput:
        user, sequence, candidate = self.embeddings(batch)
        return self.network(user, sequence, candidate, batch)

    @torch.no_grad()
    def score(self, batch: RequestBatch) -> Scores:
        """Scores of every candidate; needs eval mode."""
        assert not self.training, "score() ranks all requests alike: call eval() first"
        output = self(batch)
        reference = output.reference
        return Scores(main_N=output.main.score_N, satisfaction_N=reference.score_N if reference is not None else None)


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Constants of one training step. A loss is this rank's part: their sum over ranks is the mean over all pairs."""

    loss: Tensor
    """What is differentiated, scaled for DistributedDataParallel's mean over ranks."""
    loss_main: Tensor
    loss_satisfaction: Tensor
    loss_dpo: Tensor
    loss_dense: Tensor
    pairs_main: Tensor
    """Over all ranks."""
    pairs_answered: Tensor
    network: NetworkOutput


class Objective(nn.Module):
    """L = L_main + l1 L_satis + l2 L_DPO + l3 L_dense, each normalised by its pairs over all ranks.

    Args:
        utility: weight of each outcome in the engagement utility.
        slots: answers per rank and step at most; all ranks exchange that many values.
    """

    utility_O: Tensor

    def __init__(self, config: Losses, utility: list[float], *, slots: int, ranks: Ranks) -> None:
        super().__init__()
        self.config = config
        self.slots = slots
        self.ranks = ranks
        self.steered = True
        """Whether L_DPO and L_dense are in force; the trainer keeps them out during the warm-up."""
        self.register_buffer("utility_O", torch.tensor(utility), persistent=False)

    def forward(self, output: NetworkOutput, batch: RequestBatch) -> StepOutput:
        config, lists, size = self.config, output.candidates, self.ranks.size
        score_RC = lists.pad(output.main.score_N[:, None]).squeeze(-1)
        mask_RC = lists.mask()
        zero = score_RC.new_zeros(())
        count = batch.stream.requests
        utility_N = batch.outcome_NO[: lists.total] @ self.utility_O
        utility_RC = lists.pad(utility_N[:, None]).squeeze(-1)[:count]
        request_pairs = losses.RequestPairs.of(score_RC[:count], mask_RC[:count])
        sum_main, pairs_main = losses.bpr(request_pairs, utility_RC)
        sum_dense, pairs_dense = zero, pairs_main.new_zeros(())
        reference_RC = None
        if output.reference is not None:
            reference_RC = lists.pad(output.reference.score_N[:, None]).squeeze(-1)
            if config.dense and self.steered:
                sum_dense, pairs_dense = losses.dense_preference(request_pairs, reference_RC[:count])
        pairs = self.ranks.sum(torch.stack([pairs_main, pairs_dense]))
        loss_main = sum_main / pairs[0].clamp(min=1)
        loss_dense = sum_dense / pairs[1].clamp(min=1)
        loss_satisfaction = loss_dpo = zero
        pairs_answered = pairs_main.new_zeros(())
        if output.satisfaction_A is not None:
            margin_A = self._margin(score_RC, reference_RC, mask_RC, batch) if config.dpo else None
            loss_satisfaction, loss_dpo, pairs_answered = self._answered(output.satisfaction_A, margin_A, batch)
        loss = (
            loss_main
            + config.satisfaction * loss_satisfaction
            + (config.dpo * loss_dpo if self.steered else 0.0)
            + config.dense * loss_dense
        )
        return StepOutput(
            loss=loss * size,
            loss_main=loss_main.detach(),
            loss_satisfaction=loss_satisfaction.detach(),
            loss_dpo=loss_dpo.detach(),
            loss_dense=loss_dense.detach(),
            pairs_main=pairs[0],
            pairs_answered=pairs_answered,
            network=output,
        )

    def _margin(self, score_RC: Tensor, reference_RC: Tensor | None, mask_RC: Tensor, batch: RequestBatch) -> Tensor:
        """beta (log pi - log pi_ref) of the answered candidates, (A,)."""
        assert reference_RC is not None
        policy = self.config.policy
        log_ratio_RC = losses.log_policy(score_RC, mask_RC, policy) - losses.log_policy(
            reference_RC.detach(), mask_RC, policy
        )
        offsets_R1 = batch.candidate_offsets_R1
        request_A = torch.bucketize(batch.answered_A, offsets_R1[1:], right=True)
        return self.config.beta * log_ratio_RC[request_A, batch.answered_A - offsets_R1[request_A]]

    def _answered(
        self, satisfaction_A: Tensor, margin_A: Tensor | None, batch: RequestBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(L_satis, L_DPO, number of pairs): the ranks exchange the values of their answers."""
        label_A = batch.answer_A
        rows = [satisfaction_A, label_A.to(satisfaction_A.dtype), *([margin_A] if margin_A is not None else [])]
        satisfaction_B, label_B, *margin_B = self.ranks.gather(torch.stack(rows).detach(), self.slots, losses.NO_LABEL)
        sum_satisfaction, pairs = losses.answered_pairs(satisfaction_A, label_A, satisfaction_B, label_B)
        sum_dpo = satisfaction_A.new_zeros(())
        if margin_A is not None:
            sum_dpo, _ = losses.answered_pairs(margin_A, label_A, margin_B[0], label_B)
        share = pairs.clamp(min=1)
        return sum_satisfaction / share, sum_dpo / share, pairs


class TrainingModel(nn.Module):
    """Ranker and objective: RequestBatch to (loss, StepOutput), as TrainPipelineSparseDist expects it."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.ranker = Ranker(config, device)
        self.objective = Objective(
            config.losses,
            [outcome.weight for outcome in config.schema.outcomes],
            slots=config.replay.answers_per_step,
            ranks=ranks or OneRank(),
        )

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        output = self.objective(self.ranker(batch), batch)
        return output.loss, output
