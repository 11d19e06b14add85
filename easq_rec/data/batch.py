"""The batch: the input of one rank for one step.

The requests of the stream come first, then the replayed requests, whose candidates have answers. Shape suffixes: R
requests, H history entries of all requests, N candidates of all requests, A answers, O outcomes, F numbers of the float
features of users, history entries or candidates, or of those that only the satisfaction tower reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from easq_rec.config.schema import Feature, FeatureSchema, weighted
from easq_rec.data import kinds
from easq_rec.data.columns import Array, Ragged, Rows, joined_offsets, offsets_of
from easq_rec.data.encode import AGE, RATIO, EncodedRequests, feature_key, outcome_key
from easq_rec.data.evidence import EvidenceCandidates
from easq_rec.data.feature_dropout import FeatureScales, Scale
from easq_rec.data.groups import CandidateGroups, groups_of_users, slates_of_users
from easq_rec.data.id_map import IdChanges


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Number of requests, history entries and candidates of a part of a batch."""

    requests: int
    history: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Unhashed ids of requests and candidates, and times, on the host: metrics and score files use them."""

    request_id_R: Rows
    user_id_R: Rows
    timestamp_ms_R: Rows
    item_N: Rows


@dataclass(frozen=True, kw_only=True)
class RequestBatch(Pipelineable):
    """R requests as tensors. A batch is never modified."""

    user: KeyedJaggedTensor
    """User ids, stride R; with weights if the schema has weighted user features."""
    sequence: KeyedJaggedTensor
    """Ids of `history.*` and `candidate.*`, looked up unpooled, stride R."""
    candidate: KeyedJaggedTensor | None
    """Pooled `candidate.*` features, and `satisfaction.*`, the ids of the embeddings that only the satisfaction tower
    reads, stride N; None if the schema has neither. With weights if the schema has weighted candidate features."""
    history_offsets_R1: Tensor
    candidate_offsets_R1: Tensor
    history_age_H: Tensor
    """Seconds from the history entry to the request, float32."""
    history_ratio_H: Tensor
    """Watch ratio, float32."""
    user_float_RF: Tensor
    history_float_HF: Tensor
    float_NF: Tensor
    satisfaction_NF: Tensor
    """Numbers that only the satisfaction tower reads (`FeatureSchema.satisfaction`)."""
    outcome_NO: Tensor
    answered_A: Tensor
    """Positions of the answered candidates among the N, int64."""
    answer_A: Tensor
    """Answer codes of these candidates (`FeatureSchema.answers`), int64."""
    answer_offsets: Tensor
    """Offsets of the replayed requests' answers, (replayed requests + 1,)."""
    evidence_candidate_E: Tensor
    """Positions of the candidates with evidence (`easq_rec.data.evidence`) among the N; all are in the stream."""
    evidence_E: Tensor
    """Log-likelihood ratio of satisfaction given their outcomes, float32."""
    evidence_offsets: Tensor
    """Offsets of the requests, or of the `groups`, that have candidates with evidence; one more than there are."""
    total: Extent
    stream: Extent
    """The part from the request stream, which comes first; the rest is replayed."""
    max_history: int
    max_candidates: int
    max_answers: int
    max_evidence: int
    """Longest lists, on the host, so that no shape is read from a device."""
    keys: Keys
    aligned: bool = True
    """Whether this step aligns. Only then do the stream's candidates have ids for the embeddings that only the
    satisfaction tower reads."""
    answers_differ: bool = True
    """Whether the replayed answers of all ranks form a pair. Without one, no loss on answers has a gradient."""
    evidence_counts: bool = True
    """Whether some outcome has a weight of evidence. Without one, L_evidence has no gradient."""
    truth_N: Tensor | None = None
    """Graded satisfaction (NaN: unknown), read only by evaluation."""
    groups: CandidateGroups | None = None
    """The stream's candidates by user; None: losses compare the candidates of a request."""
    slates: CandidateGroups | None = None
    """All candidates of the users that have answers, each candidate once; None as in `groups`."""
    user_scale_RU: Tensor | None = None
    """Factors of the embeddings of the user's id features (`FeatureScales`); None: all are 1."""
    candidate_scale_NC: Tensor | None = None
    """The same for the id features of the candidates."""
    reward_N: Tensor | None = None
    """Reward of the stream's candidates given their outcomes (`easq_rec.answers.reward`), float32; None: not needed."""
    answer_weight_A: Tensor | None = None
    """Weights of the answers (`easq_rec.answers.propensity`), float32; None: not needed, or no answer is due."""
    id_changes: tuple[IdChanges, ...] = ()
    """What changes in the maps of admitted tables before the step. With them come rows in place of ids."""

    def _map(self, move: Any) -> RequestBatch:
        moved: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            match getattr(self, field.name):
                case Tensor() | KeyedJaggedTensor() as value:
                    moved[field.name] = move(value)
                case CandidateGroups() as groups:
                    moved[field.name] = groups.map(move)
        return dataclasses.replace(self, **moved)

    def to(self, device: torch.device, non_blocking: bool = False) -> RequestBatch:
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> RequestBatch:
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for field in dataclasses.fields(self):
            match getattr(self, field.name):
                case Tensor() | KeyedJaggedTensor() as value:
                    value.record_stream(stream)
                case CandidateGroups() as groups:
                    for tensor in groups.tensors():
                        tensor.record_stream(stream)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers drawn for a batch, with their requests."""

    requests: EncodedRequests
    request_A: Rows
    """For each answer, the position of its request in `requests`."""
    candidate_A: Rows
    """For each answer, the position of its candidate within that request."""
    answer_A: Array
    weight_A: Array | None = None
    """Weight of each answer, float32; None: losses weigh all alike."""


def collate(
    schema: FeatureSchema,
    stream: EncodedRequests,
    answers: Answers | None = None,
    *,
    evidence_O: Array | None = None,
    reward_O: Array | None = None,
    aligned: bool = True,
    answers_differ: bool = True,
    truth: str | None = None,
    by_user: bool = False,
    scales: FeatureScales | None = None,
) -> RequestBatch:
    """Makes a batch of columns.

    Without outcome columns (scoring), `outcome_NO` has no columns. TorchRec cannot look up an empty batch: if the
    stream has no candidates and no answer is due, a blank request is added to the replayed requests.

    Args:
        evidence_O: weights of evidence of the outcomes, which select the candidates with evidence; None: no candidate.
        reward_O: weights of the outcomes in the reward; None: the batch has no rewards.
        answers_differ: whether the answers of all ranks form a pair.
        by_user: losses compare the candidates of a user; False: those of a request.
        scales: factors of the stream's embeddings. Those of replayed requests are 1.
    """
    parts = [stream] if answers is None else [stream, answers.requests]
    if not any(part.candidates.offsets[-1] for part in parts):
        nothing = np.zeros(0, np.int64)
        blank = Answers(requests=stream.blank(), request_A=nothing, candidate_A=nothing, answer_A=nothing)
        return collate(
            schema,
            stream,
            blank,
            evidence_O=evidence_O,
            reward_O=reward_O,
            aligned=aligned,
            answers_differ=answers_differ,
            truth=truth,
            by_user=by_user,
            scales=scales,
        )
    histories, candidates = [part.history for part in parts], [part.candidates for part in parts]
    history_offsets, candidate_offsets = joined_offsets(histories), joined_offsets(candidates)
    n_requests, n_candidates = len(history_offsets) - 1, int(candidate_offsets[-1])
    history_lengths, candidate_lengths = np.diff(history_offsets), np.diff(candidate_offsets)
    if answers is not None:
        # Replayed requests follow the stream's.
        answered = candidate_offsets[len(stream) + answers.request_A] + answers.candidate_A
        answer: Array = answers.answer_A
        weight = answers.weight_A
        per_request = np.bincount(answers.request_A, minlength=len(answers.requests))
    else:
        answered, answer, per_request = np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int64)
        weight = None
    outcomes = [key for outcome in schema.outcomes if (key := outcome_key(outcome.name)) in candidates[0].children]
    outcome_NO = _beside([[part.children[key] for part in candidates] for key in outcomes], n_candidates)
    request_id_R, user_id_R = (
        np.concatenate([part.scalars[name] for part in parts]) for name in ("request_id", "user_id")
    )
    groups = slates = None
    if by_user:
        groups = groups_of_users(user_id_R[: len(stream)], stream.candidates.offsets)
        # A request of the stream may be replayed in the same batch.
        repeated_R = np.isin(request_id_R, request_id_R[len(stream) :])
        repeated_R[len(stream) :] = False
        answered_R = np.flatnonzero(per_request) + len(stream)
        slates = slates_of_users(user_id_R, candidate_offsets, answered_R, ~repeated_R)
    evidence = EvidenceCandidates.none()
    if aligned and evidence_O is not None:
        outcomes_of_stream, trigger = outcome_NO[: stream.candidates.offsets[-1]].numpy(), schema.trigger_index
        if groups is None:
            evidence = EvidenceCandidates.find(outcomes_of_stream, evidence_O, stream.candidates.offsets, trigger)
        else:
            order_M, offsets_G1 = (tensor.numpy() for tensor in groups.tensors())
            evidence = EvidenceCandidates.find(outcomes_of_stream[order_M], evidence_O, offsets_G1, trigger)
            evidence = dataclasses.replace(evidence, candidate_E=order_M[evidence.candidate_E])
    pooled = [("candidate", feature, 0) for feature in schema.pooled]
    unread = 0 if aligned else int(stream.candidates.offsets[-1])
    pooled += [("satisfaction", feature, unread) for feature in schema.satisfaction_ids]
    return RequestBatch(
        user=_pooled([("user", feature, 0) for feature in schema.user_ids], parts, n_requests),
        sequence=KeyedJaggedTensor(
            keys=sequence_keys(schema),
            values=_ids(
                [history.column(feature_key(feature)) for feature in schema.history_ids for history in histories]
                + [part.column(feature_key(feature)) for feature in schema.shared for part in candidates]
            ),
            lengths=_joined([history_lengths] * len(schema.history_ids) + [candidate_lengths] * len(schema.shared)),
            stride=n_requests,
        ),
        candidate=_pooled(pooled, candidates, n_candidates) if pooled else None,
        history_offsets_R1=torch.from_numpy(history_offsets),
        candidate_offsets_R1=torch.from_numpy(candidate_offsets),
        history_age_H=_joined([history.column(AGE) for history in histories]),
        history_ratio_H=_joined([history.column(RATIO) for history in histories]),
        user_float_RF=_beside([_columns(feature, parts) for feature in schema.user_floats], n_requests),
        history_float_HF=_beside([_columns(f, histories) for f in schema.history_floats], int(history_offsets[-1])),
        float_NF=_beside([_columns(feature, candidates) for feature in schema.floats], n_candidates),
        satisfaction_NF=_beside([_columns(feature, candidates) for feature in schema.satisfaction], n_candidates),
        outcome_NO=outcome_NO,
        answered_A=torch.from_numpy(answered),
        answer_A=torch.from_numpy(answer.astype(np.int64)),
        answer_offsets=torch.from_numpy(offsets_of(per_request)),
        evidence_candidate_E=torch.from_numpy(evidence.candidate_E),
        evidence_E=torch.from_numpy(evidence.evidence_E),
        evidence_offsets=torch.from_numpy(evidence.offsets),
        total=Extent(requests=n_requests, history=int(history_offsets[-1]), candidates=n_candidates),
        stream=Extent(
            requests=len(stream),
            history=int(stream.history.offsets[-1]),
            candidates=int(stream.candidates.offsets[-1]),
        ),
        max_history=int(history_lengths.max(initial=0)),
        max_candidates=int(candidate_lengths.max(initial=0)),
        max_answers=int(per_request.max(initial=0)),
        max_evidence=int(np.diff(evidence.offsets).max(initial=0)),
        keys=Keys(
            request_id_R=request_id_R,
            user_id_R=user_id_R,
            timestamp_ms_R=np.concatenate([part.timestamp_ms for part in parts]),
            item_N=np.concatenate([part.column(schema.item) for part in candidates]),
        ),
        aligned=aligned,
        answers_differ=aligned and answers_differ,
        evidence_counts=aligned and evidence_O is not None and bool(np.any(evidence_O)),
        truth_N=_joined([part.column(truth) for part in candidates]) if truth is not None else None,
        groups=groups,
        slates=slates,
        user_scale_RU=_extended(scales.user_RU, n_requests) if scales is not None else None,
        candidate_scale_NC=_extended(scales.candidate_NC, n_candidates) if scales is not None else None,
        answer_weight_A=torch.from_numpy(weight) if weight is not None else None,
        reward_N=_rewards(outcome_NO[: stream.candidates.offsets[-1]], reward_O) if reward_O is not None else None,
    )


def sequence_keys(schema: FeatureSchema) -> list[str]:
    """Keys of `RequestBatch.sequence`."""
    return [f"history.{f.name}" for f in schema.history_ids] + [f"candidate.{f.name}" for f in schema.shared]


Part = EncodedRequests | Ragged
"""Users, history entries or candidates of a part of a batch."""


def _pooled(features: Sequence[tuple[str, Feature, int]], parts: Sequence[Part], stride: int) -> KeyedJaggedTensor:
    """The pooled features of users or candidates, key by key, and for each the parts one after the other.

    Args:
        features: (prefix of the key, feature, number of leading rows without ids).
    """
    lookups = [kinds.lookup(feature, _columns(feature, parts)).without(unread) for _, feature, unread in features]
    weights = [found.weights for found in lookups] if weighted(tuple(feature for _, feature, _ in features)) else None
    return KeyedJaggedTensor(
        keys=[f"{owner}.{feature.name}" for owner, feature, _ in features],
        values=_ids([found.ids for found in lookups]),
        weights=_joined(weights) if weights is not None else None,
        lengths=_joined([found.lengths for found in lookups]),
        stride=stride,
    )


def _columns(feature: Feature, parts: Sequence[Part]) -> list[Array | Ragged]:
    """The encoded column of a feature in every part."""
    key = feature_key(feature)
    return [part.column(key) if isinstance(part, EncodedRequests) else part.children[key] for part in parts]


def _ids(parts: list[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts, dtype=np.int64))


def _joined(parts: list[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _extended(scale_NC: Scale, rows: int) -> Tensor:
    """With ones for the rows that follow."""
    return torch.from_numpy(np.concatenate([scale_NC, np.ones((rows - len(scale_NC), scale_NC.shape[1]), np.float32)]))


def _rewards(outcome_NO: Tensor, weight_O: Array) -> Tensor:
    """Sum of the weights of what happened. NaN (an unknown outcome) is not above 0."""
    return torch.from_numpy((outcome_NO.numpy() > 0) @ weight_O.astype(np.float32))


def _beside(columns: Sequence[Sequence[Array | Ragged]], rows: int) -> Tensor:
    """(rows, numbers): columns side by side, each from the parts of a batch."""
    if not columns:
        return torch.zeros(rows, 0)
    whole = [kinds.joined([part for part in parts if not isinstance(part, Ragged)]) for parts in columns]
    return torch.from_numpy(np.concatenate([c if c.ndim > 1 else c[:, None] for c in whole], axis=1))
