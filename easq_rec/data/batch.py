"""The batch: what one rank trains on in one step.

Requests are ordered: first those of the stream, then the replayed ones whose candidates carry answers. Legend of the
shape suffixes: R requests, H history entries of all requests, N candidates of all requests, A answers, O outcomes,
F float features.
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

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.columns import Array, Ragged, Rows, joined_offsets, offsets_of
from easq_rec.data.encode import AGE, RATIO, EncodedRequests, feature_key, outcome_key
from easq_rec.data.evidence import EvidenceCandidates


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Number of requests, history entries and candidates of a part of a batch."""

    requests: int
    history: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What identifies requests and candidates, unhashed and on the host: for metrics and score files."""

    request_id_R: Rows
    user_id_R: Rows
    item_N: Rows


@dataclass(frozen=True, kw_only=True)
class RequestBatch(Pipelineable):
    """R requests as tensors. Nothing writes to a batch."""

    user: KeyedJaggedTensor
    """User features, stride R."""
    sequence: KeyedJaggedTensor
    """`history.*` and `candidate.*` ids that are looked up unpooled, stride R."""
    candidate: KeyedJaggedTensor | None
    """Pooled `candidate.*` features, and the ids of the embeddings that only the satisfaction tower reads,
    `satisfaction.*`, stride N; None where the schema has neither."""
    history_offsets_R1: Tensor
    candidate_offsets_R1: Tensor
    history_age_H: Tensor
    """Seconds from the history entry to the request, float32."""
    history_ratio_H: Tensor
    """Watch ratio, float32."""
    float_NF: Tensor
    outcome_NO: Tensor
    answered_A: Tensor
    """Position among the N candidates of each answered one, int64."""
    answer_A: Tensor
    """Their answer codes (`FeatureSchema.answers`), int64."""
    answer_offsets: Tensor
    """Answers before each replayed request, (replayed requests + 1,)."""
    evidence_candidate_E: Tensor
    """Position among the N candidates of each candidate with evidence (`easq_rec.data.evidence`), all in the stream."""
    evidence_E: Tensor
    """Log-likelihood ratio of satisfaction given their outcomes, float32."""
    evidence_offsets: Tensor
    """Candidates with evidence before each request that has any, (requests with evidence + 1,)."""
    total: Extent
    stream: Extent
    """The leading part that comes from the request stream; the rest is replayed."""
    max_history: int
    max_candidates: int
    max_answers: int
    max_evidence: int
    """Longest lists, on the host: no shape has to be read from a device."""
    keys: Keys
    aligned: bool = True
    """Whether a training step on it aligns. Only then do the stream's candidates have ids for the embeddings that only
    the satisfaction tower reads."""
    truth_N: Tensor | None = None
    """Graded satisfaction (NaN: unknown), read only by evaluation."""

    def _map(self, move: Any) -> RequestBatch:
        moved = {
            field.name: move(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor | KeyedJaggedTensor)
        }
        return dataclasses.replace(self, **moved)

    def to(self, device: torch.device, non_blocking: bool = False) -> RequestBatch:
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> RequestBatch:
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor | KeyedJaggedTensor):
                value.record_stream(stream)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The drawn answers of a batch's replayed requests."""

    requests: EncodedRequests
    request_A: Rows
    """For each answer, which of `requests` it belongs to."""
    candidate_A: Rows
    """For each answer, which candidate of that request it is about."""
    answer_A: Array


def collate(
    schema: FeatureSchema,
    stream: EncodedRequests,
    answers: Answers | None = None,
    *,
    evidence_O: Array | None = None,
    aligned: bool = True,
    truth: str | None = None,
) -> RequestBatch:
    """Columns to a batch.

    Without outcome columns (scoring) `outcome_NO` has no columns. TorchRec cannot look up an empty batch: where the
    stream has no candidate and no answer is due, a blank request is added to the replayed ones.

    Args:
        evidence_O: weight of evidence of each outcome, from which the candidates with evidence are found; None: none.
    """
    parts = [stream] if answers is None else [stream, answers.requests]
    if not any(part.candidates.offsets[-1] for part in parts):
        nothing = np.zeros(0, np.int64)
        blank = Answers(requests=stream.blank(), request_A=nothing, candidate_A=nothing, answer_A=nothing)
        return collate(schema, stream, blank, evidence_O=evidence_O, aligned=aligned, truth=truth)
    histories, candidates = [part.history for part in parts], [part.candidates for part in parts]
    history_offsets, candidate_offsets = joined_offsets(histories), joined_offsets(candidates)
    n_requests, n_candidates = len(history_offsets) - 1, int(candidate_offsets[-1])
    history_lengths, candidate_lengths = np.diff(history_offsets), np.diff(candidate_offsets)
    if answers is not None:
        # Replayed requests follow the stream's.
        answered = candidate_offsets[len(stream) + answers.request_A] + answers.candidate_A
        answer: Array = answers.answer_A
        per_request = np.bincount(answers.request_A, minlength=len(answers.requests))
    else:
        answered, answer, per_request = np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int64)
    outcome_NO = _stack([outcome_key(outcome.name) for outcome in schema.outcomes], candidates, n_candidates)
    evidence = EvidenceCandidates.none()
    if aligned and evidence_O is not None:
        offsets, trigger = stream.candidates.offsets, schema.trigger_index
        evidence = EvidenceCandidates.find(outcome_NO[: offsets[-1]].numpy(), evidence_O, offsets, trigger)
    pooled = [("candidate", feature, 0) for feature in schema.pooled]
    unread = 0 if aligned else int(stream.candidates.offsets[-1])
    pooled += [("satisfaction", feature, unread) for feature in schema.satisfaction]
    return RequestBatch(
        user=_pooled([("user", feature, 0) for feature in schema.user], parts, n_requests),
        sequence=KeyedJaggedTensor(
            keys=sequence_keys(schema),
            values=_ids(
                [history.column(feature_key(feature)) for feature in schema.history for history in histories]
                + [part.column(feature_key(feature)) for feature in schema.shared for part in candidates]
            ),
            lengths=_joined([history_lengths] * len(schema.history) + [candidate_lengths] * len(schema.shared)),
            stride=n_requests,
        ),
        candidate=_pooled(pooled, candidates, n_candidates) if pooled else None,
        history_offsets_R1=torch.from_numpy(history_offsets),
        candidate_offsets_R1=torch.from_numpy(candidate_offsets),
        history_age_H=_joined([history.column(AGE) for history in histories]),
        history_ratio_H=_joined([history.column(RATIO) for history in histories]),
        float_NF=_stack([feature_key(feature) for feature in schema.floats], candidates, n_candidates),
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
            request_id_R=np.concatenate([part.scalars["request_id"] for part in parts]),
            user_id_R=np.concatenate([part.scalars["user_id"] for part in parts]),
            item_N=np.concatenate([part.column(schema.item) for part in candidates]),
        ),
        aligned=aligned,
        truth_N=_joined([part.column(truth) for part in candidates]) if truth is not None else None,
    )


def sequence_keys(schema: FeatureSchema) -> list[str]:
    """Keys of `RequestBatch.sequence`."""
    return [f"history.{f.name}" for f in schema.history] + [f"candidate.{f.name}" for f in schema.shared]


def _pooled(
    features: Sequence[tuple[str, Feature, int]], parts: Sequence[EncodedRequests | Ragged], stride: int
) -> KeyedJaggedTensor:
    """The pooled features of users or candidates, key by key, and for each the parts one after the other.

    Args:
        features: what the key begins with, the feature, and how many leading rows come without ids.
    """
    values, lengths = [], []
    one = np.ones(stride, np.int64)
    for _, feature, unread in features:
        key = feature_key(feature)
        ids: list[Array]
        if feature.kind == "id_list":
            lists = [part.lists[key] if isinstance(part, EncodedRequests) else part.lists(key) for part in parts]
            ids, length = [ragged.column("values") for ragged in lists], _concatenated([r.lengths for r in lists])
        else:
            ids = [part.scalars[key] if isinstance(part, EncodedRequests) else part.column(key) for part in parts]
            length = one
        if unread:
            ids = [_concatenated(ids)[int(length[:unread].sum()) :]]
            length = np.concatenate([np.zeros(unread, length.dtype), length[unread:]])
        values += ids
        lengths.append(length)
    return KeyedJaggedTensor(
        keys=[f"{owner}.{feature.name}" for owner, feature, _ in features],
        values=_ids(values),
        lengths=_joined(lengths),
        stride=stride,
    )


def _concatenated(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _ids(parts: list[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts, dtype=np.int64))


def _joined(parts: list[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _stack(names: list[str], candidates: list[Ragged], rows: int) -> Tensor:
    """(rows, columns) of the named columns that exist."""
    columns = [
        np.concatenate([part.column(name) for part in candidates]) for name in names if name in candidates[0].children
    ]
    if not columns:
        return torch.zeros(rows, 0)
    return torch.from_numpy(np.stack(columns, axis=1))
