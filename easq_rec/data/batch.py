"""The batch: what one rank trains on in one step.

Requests are ordered: first those of the stream, then the replayed ones whose candidates carry answers. Legend of the
shape suffixes: R requests, H history entries of all requests, N candidates of all requests, A answers, O outcomes,
F float features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from easq_rec.data.columns import Array, Ragged, RequestColumns, Rows
from easq_rec.data.schema import user_path
from easq_rec.features import Feature, FeatureSchema


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
    """Pooled candidate features, stride N; None where the schema has none."""
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
    """0 dissatisfied, 1 uncertain, 2 satisfied, int64."""
    answer_offsets: Tensor
    """Answers before each replayed request, (replayed requests + 1,)."""
    total: Extent
    stream: Extent
    """The leading part that comes from the request stream; the rest is replayed."""
    max_history: int
    max_candidates: int
    max_answers: int
    """Longest lists, on the host: no device has to be asked for a shape."""
    keys: Keys
    truth_N: Tensor | None = None
    """Graded satisfaction (NaN: unknown), read for evaluation alone."""

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

    requests: RequestColumns
    request_A: Rows
    """For each answer, which of `requests` it belongs to."""
    candidate_A: Rows
    """For each answer, which candidate of that request it is about."""
    answer_A: Array


def collate(
    schema: FeatureSchema, stream: RequestColumns, answers: Answers | None = None, *, truth: str | None = None
) -> RequestBatch:
    """Columns to a batch.

    Without outcome columns (scoring) `outcome_NO` has no columns. A batch is never empty, for TorchRec cannot look up
    nothing at all: where the stream has no candidate and no answer is due, a blank request stands among the replayed.
    """
    columns = RequestColumns.concat([stream, answers.requests]) if answers is not None else stream
    if not columns.candidates.offsets[-1]:
        nothing = np.zeros(0, np.int64)
        blank = Answers(requests=stream.blank(), request_A=nothing, candidate_A=nothing, answer_A=nothing)
        return collate(schema, stream, blank, truth=truth)
    history, candidates = columns.history, columns.candidates
    n_candidates = int(candidates.offsets[-1])
    user = [_ids(schema, feature, columns, user_path(feature)) for feature in schema.user]
    sequence = [_ids_of(schema, f, history.column(f.column), history.lengths) for f in schema.history]
    sequence += [_ids_of(schema, f, candidates.column(f.column), candidates.lengths) for f in schema.shared]
    pooled = [_candidate_ids(schema, feature, candidates, n_candidates) for feature in schema.pooled]
    age = np.repeat(columns.timestamp_ms, history.lengths) - history.column("timestamp_ms")
    floats = [_transform(feature, candidates.column(feature.column)) for feature in schema.floats]
    outcomes = [candidates.column(o.name) for o in schema.outcomes if o.name in candidates.children]
    if answers is not None:
        # Replayed requests follow the stream's.
        answered = candidates.offsets[len(stream) + answers.request_A] + answers.candidate_A
        answer: Array = answers.answer_A
        per_request = np.bincount(answers.request_A, minlength=len(answers.requests))
    else:
        answered, answer, per_request = np.zeros(0, np.int64), np.zeros(0, np.int8), np.zeros(0, np.int64)
    return RequestBatch(
        user=_kjt([f"user.{f.name}" for f in schema.user], user, len(columns)),
        sequence=_kjt(sequence_keys(schema), sequence, len(columns)),
        candidate=_kjt([f"candidate.{f.name}" for f in schema.pooled], pooled, n_candidates) if pooled else None,
        history_offsets_R1=_tensor(history.offsets),
        candidate_offsets_R1=_tensor(candidates.offsets),
        history_age_H=_tensor((age / 1_000).astype(np.float32)),
        history_ratio_H=_tensor(history.column("watch_ratio")),
        float_NF=_stack(floats, n_candidates),
        outcome_NO=_stack(outcomes, n_candidates),
        answered_A=_tensor(answered),
        answer_A=_tensor(answer.astype(np.int64)),
        answer_offsets=_tensor(np.concatenate([[0], np.cumsum(per_request)])),
        total=_extent(columns),
        stream=_extent(stream),
        max_history=int(history.lengths.max(initial=0)),
        max_candidates=int(candidates.lengths.max(initial=0)),
        max_answers=int(per_request.max(initial=0)),
        keys=Keys(
            request_id_R=columns.scalars["request_id"].astype(np.int64),
            user_id_R=columns.scalars["user_id"].astype(np.int64),
            item_N=candidates.column(schema.item).astype(np.int64),
        ),
        truth_N=_tensor(candidates.column(truth)) if truth is not None else None,
    )


def sequence_keys(schema: FeatureSchema) -> list[str]:
    """Keys of `RequestBatch.sequence`."""
    return [f"history.{f.name}" for f in schema.history] + [f"candidate.{f.name}" for f in schema.shared]


def _ids(schema: FeatureSchema, feature: Feature, columns: RequestColumns, path: str) -> tuple[Rows, Rows]:
    if feature.kind == "id_list":
        ragged = columns.lists[path]
        return _ids_of(schema, feature, ragged.column("values"), ragged.lengths)
    return _ids_of(schema, feature, columns.scalars[path], np.ones(len(columns), np.int64))


def _candidate_ids(schema: FeatureSchema, feature: Feature, candidates: Ragged, count: int) -> tuple[Rows, Rows]:
    if feature.kind == "id_list":
        ragged = candidates.lists(feature.column)
        return _ids_of(schema, feature, ragged.column("values"), ragged.lengths)
    return _ids_of(schema, feature, candidates.column(feature.column), np.ones(count, np.int64))


def _ids_of(schema: FeatureSchema, feature: Feature, values: Array, lengths: Rows) -> tuple[Rows, Rows]:
    """(table rows, lengths) of one key. Python's modulo, so that a negative id has a row as well."""
    assert feature.table is not None
    table = schema.table(feature.table)
    ids = values.astype(np.int64, copy=False)
    if table.id_space == "hashed":
        # np.remainder, but numpy divides by a constant in vectors and takes remainders one by one.
        ids = ids - np.floor_divide(ids, table.rows) * table.rows
    return ids, lengths


def _transform(feature: Feature, values: Array) -> Array:
    floats = values.astype(np.float32, copy=False)
    return np.log1p(np.maximum(floats, 0)) if feature.transform == "log1p" else floats


def _kjt(keys: list[str], parts: list[tuple[Rows, Rows]], stride: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=keys,
        values=_tensor(np.concatenate([values for values, _ in parts])),
        lengths=_tensor(np.concatenate([lengths for _, lengths in parts])),
        stride=stride,
    )


def _stack(columns: list[Array], rows: int) -> Tensor:
    if not columns:
        return torch.zeros(rows, 0)
    return _tensor(np.stack(columns, axis=1).astype(np.float32, copy=False))


def _tensor(array: Array) -> Tensor:
    array = np.ascontiguousarray(array)
    # Arrow's buffers are read-only; torch warns about such memory although nothing writes to a batch.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _extent(columns: RequestColumns) -> Extent:
    return Extent(
        requests=len(columns),
        history=int(columns.history.offsets[-1]),
        candidates=int(columns.candidates.offsets[-1]),
    )
