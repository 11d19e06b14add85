"""The dense network: tokens, backbone and towers, with the two gradient streams.

Legend: R requests, H history entries, N candidates, A answers, E candidates with evidence, D token width, M and E and F
and P widths of what is embedded.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easq_rec.config import Model
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import RequestBatch
from easq_rec.kernels.jagged import Lists
from easq_rec.model.backbones.transformer import Backbone
from easq_rec.model.lora import AdaptedLinear, Stream, merged_once
from easq_rec.model.tokens import Tokenizer
from easq_rec.model.towers import Experts, MoETower, TowerOutput


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the tables returned, for the whole batch or a part of its requests."""

    user_RM: Tensor
    history_HE: Tensor
    """Summed over the history's ids."""
    candidate_NF: Tensor
    """The candidate's embeddings side by side, and its float features."""
    satisfaction_NP: Tensor | None
    """The satisfaction tower's own embeddings of the candidate, side by side; None where it has none."""

    def tensors(self) -> tuple[Tensor, ...]:
        parts = (self.user_RM, self.history_HE, self.candidate_NF, self.satisfaction_NP)
        return tuple(part for part in parts if part is not None)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some requests of a batch, with all of their candidates or only the answered ones."""

    embedded: Embedded
    histories: Lists
    candidates: Lists
    context_H3: Tensor
    """Rows of the context table."""


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """Scores of one forward pass; N covers the stream's candidates, or all where `replayed` says so."""

    main: TowerOutput
    """Policy score and gates."""
    reference: TowerOutput | None
    """Reference score on the same candidates, a constant; None without a satisfaction tower and where the batch is not
    `aligned`."""
    answered: TowerOutput | None
    """Satisfaction score and gates of the answered candidates with the satisfaction loss's gradient; None where there
    is no reference, and outside training."""
    judged: TowerOutput | None
    """Satisfaction score and gates of the candidates that evidence tells apart with the gradient of L_evidence, which
    moves the satisfaction tower and its own embeddings; None where there is no reference, outside training and without
    that loss."""
    candidates: Lists
    """How the N candidates fall to requests."""
    embedded: tuple[Tensor, ...]
    """All tensors that the embedding tables returned."""


class RankingNetwork(nn.Module):
    """Everything behind the embedding tables.

    Args:
        evidence: compute the satisfaction score of candidates that evidence tells apart with a gradient.
        policy_on_replayed: run the main stream over replayed requests as well (losses on the policy score of answered
            candidates need it).
        smoothing: share of itself that the moving average of the satisfaction tower keeps per training step, from which
            the reference score comes; 0: there is no such average.
        autocast: dtype of the dense products; None: fp32.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        config: Model,
        *,
        max_history: int,
        evidence: bool = False,
        policy_on_replayed: bool = False,
        smoothing: float = 0.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.schema = schema
        self.isolate = config.isolate_embeddings
        self.hard_sharing = config.pathway == "shared"
        self.policy_on_replayed = policy_on_replayed or self.hard_sharing
        self.evidence = evidence
        self.smoothing = smoothing
        self.tokens = Tokenizer(schema, config, max(max_history, 1))
        self.backbone = Backbone(config)
        shared = config.shared_experts
        self.main = MoETower(config.dim, config.main, shared=shared)
        self.satisfaction: MoETower | None = None
        self.smoothed: MoETower | None = None
        self.own: nn.Linear | None = None
        if config.satisfaction is not None:
            if width := len(schema.satisfaction) * schema.satisfaction_dim:
                # Without a bias, which the tower's own layers have.
                self.own = nn.Linear(width, config.dim, bias=False)
            self.satisfaction = MoETower(config.dim, config.satisfaction, shared=shared)
            if smoothing:
                self.smoothed = copy.deepcopy(self.satisfaction).requires_grad_(False)
        self.shared = Experts(shared, config.dim, config.main) if shared else None
        self._adapted = [module for module in self.modules() if isinstance(module, AdaptedLinear)]
        self.autocast = autocast

    def forward(self, user: Any, sequence: Any, candidate: Any, batch: RequestBatch) -> NetworkOutput:
        """Scores from what the tables returned (KeyedTensor, JaggedTensors by key, KeyedTensor or None)."""
        if self.training:
            self.smooth()
        whole = self._whole(user, sequence, candidate, batch)
        device = whole.embedded.user_RM.device.type
        cast = torch.autocast(device, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        with cast, merged_once(self._adapted):
            everything = not self.training or self.policy_on_replayed
            part = whole if everything else _stream_part(whole, batch)
            h_ND = self._represent(part, Stream.MAIN)
            main = self.main(h_ND, self.shared)
            reference = answered = judged = None
            if self.satisfaction is not None and batch.aligned:
                own_NP = part.embedded.satisfaction_NP
                with torch.no_grad():
                    reference = self._judge(self.smoothed or self.satisfaction, h_ND, own_NP)
                if self.training:
                    answered = self._answered(h_ND, whole, batch)
                    if self.evidence:
                        # What the representation is made of belongs to the main loss, however dense the evidence.
                        told_ED = h_ND.detach()[batch.told_E]
                        judged = self._judge(self.satisfaction, told_ED, _rows(own_NP, batch.told_E))
        main = _float(main)
        return NetworkOutput(
            main=main,
            reference=reference,
            answered=answered,
            judged=judged,
            candidates=part.candidates,
            embedded=whole.embedded.tensors(),
        )

    def pathway(self) -> list[nn.Parameter]:
        """The adapters and the satisfaction tower: what rests in a step that does not align."""
        adapters = [value for linear in self._adapted for value in (linear.lora_a, linear.lora_b) if value is not None]
        towers = [module for module in (self.satisfaction, self.own) if module is not None]
        return adapters + [parameter for module in towers for parameter in module.parameters()]

    def _judge(self, tower: MoETower, h_ND: Tensor, own_NP: Tensor | None) -> TowerOutput:
        """What a satisfaction tower says of candidates by their representations and its own embeddings of them."""
        if self.own is not None:
            assert own_NP is not None
            h_ND = h_ND + self.own(own_NP)
        return _float(tower(h_ND, self.shared))

    def _answered(self, h_ND: Tensor, whole: Part, batch: RequestBatch) -> TowerOutput:
        """Satisfaction scores of the answered candidates with the satisfaction loss's gradient."""
        assert self.satisfaction is not None
        part = _answered_part(whole, batch, detach=self.isolate)
        h_AD = h_ND[batch.answered_A] if self.hard_sharing else self._represent(part, Stream.SATISFACTION)
        return self._judge(self.satisfaction, h_AD, part.embedded.satisfaction_NP)

    @torch.no_grad()
    def start_average(self) -> None:
        """Makes the average of the satisfaction tower, if there is one, equal to the tower."""
        if self.smoothed is not None and self.satisfaction is not None:
            self.smoothed.load_state_dict(self.satisfaction.state_dict())

    @torch.no_grad()
    def smooth(self) -> None:
        """Moves the average of the satisfaction tower, if there is one, by one step."""
        if self.smoothed is not None and self.satisfaction is not None:
            for average, current in zip(self.smoothed.parameters(), self.satisfaction.parameters(), strict=True):
                average.lerp_(current, 1 - self.smoothing)

    def _represent(self, part: Part, stream: Stream) -> Tensor:
        """Representations of a part's candidates, (N, D)."""
        embedded, histories, candidates = part.embedded, part.histories, part.candidates
        user_RUD = self.tokens.users(embedded.user_RM, stream)
        history_HD = self.tokens.histories(embedded.history_HE, part.context_H3, stream)
        candidate_ND = self.tokens.candidate(embedded.candidate_NF, stream)
        x_RTD = torch.cat([user_RUD, histories.pad(history_HD), candidates.pad(candidate_ND)], dim=1)
        request_tokens = user_RUD.shape[1] + histories.longest
        mask_RS = None
        if not histories.full:
            users = torch.ones(user_RUD.shape[:2], dtype=torch.bool, device=x_RTD.device)
            mask_RS = torch.cat([users, histories.mask()], dim=1)
        return candidates.flatten(self.backbone(x_RTD, request_tokens, mask_RS, stream))

    def _whole(self, user: Any, sequence: Any, candidate: Any, batch: RequestBatch) -> Part:
        total = batch.total
        histories = Lists(
            offsets_R1=batch.history_offsets_R1,
            count=total.requests,
            total=total.history,
            longest=batch.max_history,
        )
        context_H3 = self.tokens.context_rows(_recency(histories), batch.history_age_H, batch.history_ratio_H)
        # Sharded tables answer when they are first asked. The history's are asked last, for they have most to send; and
        # what is asked last has its gradients sent first.
        user_RM = _in_order(user, [f"user.{f.name}" for f in self.schema.user])
        pooled = candidate.to_dict() if candidate is not None else {}
        own = [pooled[f"satisfaction.{f.name}"] for f in self.schema.satisfaction] if self.own is not None else []
        history = [sequence[f"history.{f.name}"].values() for f in self.schema.history]
        shared = {feature.name for feature in self.schema.shared}
        features = [
            sequence[f"candidate.{f.name}"].values() if f.name in shared else pooled[f"candidate.{f.name}"]
            for f in self.schema.candidate
            if f.kind != "float"
        ]
        return Part(
            embedded=Embedded(
                user_RM=user_RM,
                history_HE=sum(history[1:], start=history[0]),
                candidate_NF=torch.cat([*features, batch.float_NF], dim=-1),
                satisfaction_NP=torch.cat(own, dim=-1) if own else None,
            ),
            histories=histories,
            candidates=Lists(
                offsets_R1=batch.candidate_offsets_R1,
                count=total.requests,
                total=total.candidates,
                longest=batch.max_candidates,
            ),
            context_H3=context_H3,
        )

    def merge_adapters(self) -> None:
        """Folds every adapter into its linear, for serving."""
        for linear in self._adapted:
            linear.merge()


def _stream_part(whole: Part, batch: RequestBatch) -> Part:
    """The leading requests, which come from the stream."""
    extent = batch.stream
    if extent == batch.total:
        return whole
    embedded = whole.embedded
    return Part(
        embedded=Embedded(
            user_RM=embedded.user_RM[: extent.requests],
            history_HE=embedded.history_HE[: extent.history],
            candidate_NF=embedded.candidate_NF[: extent.candidates],
            satisfaction_NP=_rows(embedded.satisfaction_NP, slice(extent.candidates)),
        ),
        histories=Lists(
            offsets_R1=batch.history_offsets_R1[: extent.requests + 1],
            count=extent.requests,
            total=extent.history,
            longest=whole.histories.longest,
        ),
        candidates=Lists(
            offsets_R1=batch.candidate_offsets_R1[: extent.requests + 1],
            count=extent.requests,
            total=extent.candidates,
            longest=whole.candidates.longest,
        ),
        context_H3=whole.context_H3[: extent.history],
    )


def _answered_part(whole: Part, batch: RequestBatch, *, detach: bool) -> Part:
    """The replayed requests with their answered candidates alone: no other row needs the satisfaction gradient."""
    extent, total, embedded = batch.stream, batch.total, whole.embedded
    answered_A = batch.answered_A
    user_RM, history_HE, candidate_NF = embedded.user_RM, embedded.history_HE, embedded.candidate_NF
    if detach:
        user_RM, history_HE, candidate_NF = user_RM.detach(), history_HE.detach(), candidate_NF.detach()
    return Part(
        embedded=Embedded(
            user_RM=user_RM[extent.requests :],
            history_HE=history_HE[extent.history :],
            candidate_NF=candidate_NF[answered_A],
            satisfaction_NP=_rows(embedded.satisfaction_NP, answered_A),
        ),
        histories=Lists(
            offsets_R1=batch.history_offsets_R1[extent.requests :] - extent.history,
            count=total.requests - extent.requests,
            total=total.history - extent.history,
            longest=whole.histories.longest,
        ),
        candidates=Lists(
            offsets_R1=batch.answer_offsets,
            count=total.requests - extent.requests,
            total=len(answered_A),
            longest=batch.max_answers,
        ),
        context_H3=whole.context_H3[extent.history :],
    )


def _rows(x_NP: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return None if x_NP is None else x_NP[rows]


def _in_order(embedded: Any, keys: list[str]) -> Tensor:
    """A KeyedTensor's values, its keys in the given order: sharded tables answer in the order of their plan."""
    if embedded.keys() == keys:
        values: Tensor = embedded.values()
        return values
    parts = embedded.to_dict()
    return torch.cat([parts[key] for key in keys], dim=1)


def _recency(histories: Lists) -> Tensor:
    """0 for the newest entry of each list, counting backwards, (H,)."""
    offsets = histories.offsets_R1
    end_H = torch.repeat_interleave(offsets[1:], offsets.diff(), output_size=histories.total)
    return end_H - 1 - torch.arange(histories.total, device=offsets.device)


def _float(output: TowerOutput) -> TowerOutput:
    """Scores leave autocast in fp32: their differences are small."""
    return TowerOutput(score_N=output.score_N.float(), gate_NK=output.gate_NK.float())
