"""The dense network: tokens, backbone and towers, with the two gradient streams.

Legend: R requests, H history entries, N candidates, A answers, E candidates with evidence, D token width, P width of
what only the satisfaction tower reads: embeddings, then numbers.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easq_rec.config import Model
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import RequestBatch
from easq_rec.kernels.jagged import Lists
from easq_rec.model.answer_rates import AnswerRates
from easq_rec.model.backbones.build import build_backbone
from easq_rec.model.embeddings import Embedded
from easq_rec.model.lora import AdaptedLinear, Stream, merged_once
from easq_rec.model.residual import CountResidual
from easq_rec.model.tokens import Tokenizer, Tokens
from easq_rec.model.towers import Experts, MoETower, TowerOutput
from easq_rec.model.wide import WidePath


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """A part of a batch's requests, with all candidates or only the answered ones."""

    embedded: Embedded
    histories: Lists
    candidates: Lists
    context_H3: Tensor
    """Rows of the context table."""
    age_H: Tensor
    """Seconds from the history entry to the request."""


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """Scores of one forward pass. N covers the stream's candidates, and the replayed ones if a loss needs them."""

    main: TowerOutput
    """Policy score and gates."""
    reference: TowerOutput | None
    """Reference score of the same candidates, a constant; None without a satisfaction tower and in steps that are not
    `aligned`."""
    answered: TowerOutput | None
    """Satisfaction score and gates of the answered candidates, with the gradient of the satisfaction loss; None without
    a reference and outside training."""
    evidence: TowerOutput | None
    """Satisfaction score and gates of the candidates with evidence, with the gradient of L_evidence, which reaches
    the satisfaction tower and its embeddings, and under hard sharing also backbone and tables; None without a
    reference or that loss, and outside training."""
    candidates: Lists
    """Distribution of the N candidates over requests."""
    embedded: tuple[Tensor, ...]
    """All embeddings that the network read. Gradient hooks on these tensors receive all gradients of the tables."""


class RankingNetwork(nn.Module):
    """The dense part of the model, from embeddings to scores.

    Args:
        evidence: compute the satisfaction score of candidates with evidence, with a gradient.
        policy_on_replayed: also compute the main stream for replayed requests (losses on the policy score of
            answered candidates need it).
        smoothing: decay per training step of the moving average of the satisfaction tower that computes the reference
            score; 0: the tower itself computes it.
        autocast: dtype of the dense products; None: fp32.
    """

    steering: Tensor | None

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
        self.autocast = autocast
        self.tokens = Tokenizer(schema, config, max(max_history, 1))
        self.backbone = build_backbone(config, max(max_history, 1))
        shared = config.shared_experts
        outcomes = schema.outcomes if config.policy_score == "expected_utility" else None
        self.main = MoETower(config.dim, config.main, shared=shared, outcomes=outcomes)
        self.residual = CountResidual(schema) if config.residual else None
        self.wide: WidePath | None = None
        if config.wide:
            numbers = (self.tokens.user_numbers.width, self.tokens.candidate_numbers.width)
            self.wide = WidePath(schema, numbers=numbers, outputs=1 if outcomes is None else len(outcomes))
        self.satisfaction: MoETower | None = None
        self.smoothed: MoETower | None = None
        self.own: nn.Linear | None = None
        self.answer_rates: AnswerRates | None = None
        self.own_width = len(schema.satisfaction_ids) * schema.satisfaction_dim
        if config.satisfaction is not None:
            if self.own_width:
                # No bias, because the layers of the tower have one.
                self.own = nn.Linear(self.own_width, config.dim, bias=False)
            if schema.satisfaction:
                self.answer_rates = AnswerRates(schema.satisfaction)
            self.satisfaction = MoETower(config.dim, config.satisfaction, shared=shared)
            if smoothing:
                self.smoothed = copy.deepcopy(self.satisfaction).requires_grad_(False)
        self.shared = Experts(shared, config.dim, config.main) if shared else None
        self.satisfaction_weight = config.satisfaction_weight
        # Part of the checkpoint: a ranker whose warm-up had not ended is served without satisfaction.
        self.register_buffer("steering", torch.zeros(()) if config.satisfaction_weight else None)
        self._adapted = [module for module in self.modules() if isinstance(module, AdaptedLinear)]

    def forward(self, user: Any, sequence: Any, candidate: Any, batch: RequestBatch) -> NetworkOutput:
        """Scores from the table outputs (KeyedTensor, JaggedTensors by key, KeyedTensor or None)."""
        if self.training:
            self.smooth()
        whole = self._whole(user, sequence, candidate, batch)
        device = whole.embedded.user_RM.device.type
        cast = torch.autocast(device, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        with cast, merged_once(self._adapted):
            everything = not self.training or self.policy_on_replayed
            part = whole if everything else _stream_part(whole, batch)
            h_ND = self._represent(part, Stream.MAIN)
            main = self.main(h_ND, self.shared, self._beside(part, batch.float_NF[: part.candidates.total]))
            reference = answered = evidence = None
            if self.satisfaction is not None and batch.aligned:
                satisfaction_NP = part.embedded.satisfaction_NP
                with torch.no_grad():
                    reference = self._score(self.smoothed or self.satisfaction, h_ND, satisfaction_NP)
                if self.training:
                    answered = self._answered(h_ND, whole, batch)
                    if self.evidence:
                        # Evidence is dense: only the main losses may train the representation that it reads, unless
                        # all tasks train it.
                        read_ND = h_ND if self.hard_sharing else h_ND.detach()
                        rows_E = batch.evidence_candidate_E
                        evidence = self._score(self.satisfaction, read_ND[rows_E], _rows(satisfaction_NP, rows_E))
        return NetworkOutput(
            main=_float(main),
            reference=reference,
            answered=answered,
            evidence=evidence,
            candidates=part.candidates,
            embedded=whole.embedded.tensors,
        )

    def pathway(self) -> list[nn.Parameter]:
        """Adapters and satisfaction tower: parameters without gradients in steps that do not align."""
        towers = [module for module in (self.satisfaction, self.own, self.answer_rates) if module is not None]
        return self.adapters() + [parameter for module in towers for parameter in module.parameters()]

    def adapters(self) -> list[nn.Parameter]:
        """The parameters that only losses on answers move."""
        return [value for linear in self._adapted for value in (linear.lora_a, linear.lora_b) if value is not None]

    def resting(self, batch: RequestBatch) -> list[nn.Parameter]:
        """The parameters of the pathway that no loss of the step moves, on any rank.

        They have no gradient, or zeros, and momentum must not move them: with few answers most steps have no pair of
        answers, and the optimizer would repeat the direction of one draw for many steps.
        """
        if batch.answers_differ:
            return []
        return self.adapters() if self.evidence and batch.evidence_counts else self.pathway()

    @torch.no_grad()
    def serve(self, part: BatchPart, float_NF: Tensor) -> tuple[Tensor, Tensor | None]:
        """(score of the main tower, satisfaction score or None) of requests whose adapters are merged, (N,) each.

        Args:
            float_NF: numbers of the candidates before `FloatEncoder`.
        """
        h_ND = self._represent(part, Stream.MAIN)
        main = self.main(h_ND, self.shared, self._beside(part, float_NF))
        if self.satisfaction is None:
            return main.score_N, None
        satisfaction = self._score(self.smoothed or self.satisfaction, h_ND, part.embedded.satisfaction_NP)
        return main.score_N, satisfaction.score_N

    def _beside(self, part: BatchPart, float_NF: Tensor) -> Tensor | None:
        """What is added to the outputs of the main tower, (N, O), fp32; None: nothing.

        Args:
            float_NF: numbers of the candidates before `FloatEncoder`.
        """
        added_NO: Tensor | None = None
        if self.wide is not None:
            embedded = part.embedded
            added_NO = self.wide(embedded.user_RM, embedded.candidate_NF, part.candidates).float()
        if self.residual is not None:
            counted_NO = self.residual(float_NF)
            added_NO = counted_NO if added_NO is None else added_NO + counted_NO
        return added_NO

    def _score(self, tower: MoETower, h_ND: Tensor, satisfaction_NP: Tensor | None) -> TowerOutput:
        """Output of a satisfaction tower for representations and what only this tower reads, plus the score of the
        counts of answers."""
        if satisfaction_NP is None:
            return _float(tower(h_ND, self.shared))
        embedded_NP, number_NF = satisfaction_NP.tensor_split([self.own_width], dim=-1)
        if self.own is not None:
            h_ND = h_ND + self.own(embedded_NP)
        output = _float(tower(h_ND, self.shared))
        if self.answer_rates is None:
            return output
        return dataclasses.replace(output, score_N=output.score_N + self.answer_rates(number_NF))

    def _answered(self, h_ND: Tensor, whole: BatchPart, batch: RequestBatch) -> TowerOutput:
        """Satisfaction scores of the answered candidates, with the gradient of the satisfaction loss."""
        assert self.satisfaction is not None
        part = _answered_part(whole, batch, detach=self.isolate)
        h_AD = h_ND[batch.answered_A] if self.hard_sharing else self._represent(part, Stream.SATISFACTION)
        return self._score(self.satisfaction, h_AD, part.embedded.satisfaction_NP)

    def policy_score(self, main_N: Tensor, satisfaction_N: Tensor | None) -> Tensor:
        """What is served, (N,).

        The policy that maximises the mean satisfaction score less 1 / weight times its Kullback-Leibler divergence from
        the policy of the main tower has these log odds (the optimum that DPO starts from, arXiv 2305.18290, equation
        4). So the sum needs no training, and a weight of 0 gives back the ranker without alignment.
        """
        if self.steering is None:
            return main_N
        assert satisfaction_N is not None, "the weight of the satisfaction score needs a satisfaction tower"
        return main_N + self.satisfaction_weight * self.steering * satisfaction_N

    @torch.no_grad()
    def steer(self) -> None:
        """Lets the satisfaction score count in the policy score from now on: the warm-up is over."""
        if self.steering is not None:
            self.steering.fill_(1.0)

    @torch.no_grad()
    def start_average(self) -> None:
        """Sets the average of the satisfaction tower, if any, to the tower."""
        if self.smoothed is not None and self.satisfaction is not None:
            self.smoothed.load_state_dict(self.satisfaction.state_dict())

    @torch.no_grad()
    def smooth(self) -> None:
        """Updates the average of the satisfaction tower, if any, by one step."""
        if self.smoothed is not None and self.satisfaction is not None:
            # With its router's statistics.
            pairs = zip(self.smoothed.state_dict().values(), self.satisfaction.state_dict().values(), strict=True)
            for average, current in pairs:
                average.lerp_(current, 1 - self.smoothing)

    def _represent(self, part: BatchPart, stream: Stream) -> Tensor:
        """Representations of a part's candidates, (N, D)."""
        embedded, histories, candidates = part.embedded, part.histories, part.candidates
        user_RUD = self.tokens.users(embedded.user_RM, stream)
        history_HD = self.tokens.histories(embedded.history_HG, part.context_H3, stream)
        candidate_ND = self.tokens.candidate(embedded.candidate_NF, stream)
        tokens = Tokens.of(user_RUD, history_HD, candidate_ND, histories, candidates, part.age_H)
        return tokens.flatten(self.backbone(tokens, stream))

    def _whole(self, user: Any, sequence: Any, candidate: Any, batch: RequestBatch) -> BatchPart:
        total = batch.total
        histories = Lists(
            offsets_R1=batch.history_offsets_R1,
            count=total.requests,
            total=total.history,
            longest=batch.max_history,
        )
        context_H3 = self.tokens.context_rows(recency(histories), batch.history_age_H, batch.history_ratio_H)
        embedded = Embedded.of(
            self.schema,
            self.tokens.numbers(batch),
            user,
            sequence,
            candidate,
            satisfaction=self.own is not None,
            satisfaction_NF=None if self.answer_rates is None else batch.satisfaction_NF,
        )
        return BatchPart(
            embedded=embedded.scaled(self.schema, batch.user_scale_RU, batch.candidate_scale_NC),
            histories=histories,
            candidates=Lists(
                offsets_R1=batch.candidate_offsets_R1,
                count=total.requests,
                total=total.candidates,
                longest=batch.max_candidates,
            ),
            context_H3=context_H3,
            age_H=batch.history_age_H,
        )

    def merge_adapters(self) -> None:
        """Merges every adapter into its linear layer, for serving."""
        for linear in self._adapted:
            linear.merge()


def _stream_part(whole: BatchPart, batch: RequestBatch) -> BatchPart:
    """The requests of the stream, which come first."""
    extent = batch.stream
    if extent == batch.total:
        return whole
    embedded = whole.embedded
    return BatchPart(
        embedded=Embedded(
            user_RM=embedded.user_RM[: extent.requests],
            history_HG=embedded.history_HG[: extent.history],
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
        age_H=whole.age_H[: extent.history],
    )


def _answered_part(whole: BatchPart, batch: RequestBatch, *, detach: bool) -> BatchPart:
    """The replayed requests with only their answered candidates: no other row needs the satisfaction gradient."""
    extent, total, embedded = batch.stream, batch.total, whole.embedded
    answered_A = batch.answered_A
    user_RM, history_HG, candidate_NF = embedded.user_RM, embedded.history_HG, embedded.candidate_NF
    if detach:
        user_RM, history_HG, candidate_NF = user_RM.detach(), history_HG.detach(), candidate_NF.detach()
    return BatchPart(
        embedded=Embedded(
            user_RM=user_RM[extent.requests :],
            history_HG=history_HG[extent.history :],
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
        age_H=whole.age_H[extent.history :],
    )


def _rows(x_NP: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return None if x_NP is None else x_NP[rows]


def recency(histories: Lists) -> Tensor:
    """0 for the newest entry of each list, counting backwards, (H,)."""
    end_H = histories.spread(histories.offsets_R1[1:])
    return end_H - 1 - torch.arange(histories.total, device=end_H.device)


def _float(output: TowerOutput) -> TowerOutput:
    """Converts autocast scores to fp32, because their differences are small."""
    return dataclasses.replace(output, score_N=output.score_N.float(), gate_NK=output.gate_NK.float())
