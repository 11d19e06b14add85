"""Impressions of converted request logs as flat columns: the one list of features that all peers may use.

The list follows the schema of recipe `kuairand`, so peers get the inputs that the project's own recipes get: the ids
and the lists of ids of users and candidates, and the history. Floating-point columns of candidates that the schema
does not know are added as numbers, and so are the two numbers that a recipe reads of a count (`easq-rec data counts`).
The three fields of a count are there as well, for a ranker that smooths its rate itself. Outcomes and the graded truth
are never features.

This file and the rankers on it import no torch, so that the memory of a cheap ranker is its own.

Shape suffixes:
    R  requests
    N  impressions, request after request
    H  history entries of all requests, oldest first within a request
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from easq_rec.config.recipes import kuairand, recipe
from easq_rec.errors import UserError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

LABEL = ("valid_play", "long_view")
"""An impression is positive if one of these outcomes is above 0."""
NOT_INPUTS = ("valid_play", "long_view", "watch_ms", "true_satisfaction", "answer", "answered_at_ms")
"""Columns of candidates that are known only after the impression."""
COUNT = ("shown", "happened", "prior")
"""Fields of a count."""
_COUNTED = recipe("kuairand_counts").schema
SMOOTHING = _COUNTED.count_features[0].smoothing
USER_COUNTS = frozenset(count.name for count in _COUNTED.counts if "user_id" in count.keys)
"""The usual counts that have the user among their keys."""
UNKNOWN_MS = 0
"""A duration that is unknown."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """The input columns of all peers, by kind. Names of candidate and user columns do not overlap."""

    user_ids: tuple[str, ...]
    """`user_id`, and fields of the user struct."""
    candidate_ids: tuple[str, ...]
    id_lists: tuple[str, ...]
    """Lists of ids of a candidate."""
    numbers: tuple[str, ...]
    """Numbers of a candidate: `duration_ms`, and of each count if the files have some NAME.rate and NAME.shown."""
    history_ids: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (
            *self.user_ids,
            *self.candidate_ids,
            *self.id_lists,
            *self.numbers,
            *(f"history.{name}" for name in self.history_ids),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Impressions:
    """Impressions in the order of the file."""

    features: Features
    request_id_R: Ints
    timestamp_R: Ints
    """Milliseconds."""
    user_R: Ints
    """User id."""
    request_N: Ints
    """Row of the impression's request."""
    ids: dict[str, Ints]
    """(N,) of each id feature of users and candidates."""
    lists: dict[str, tuple[Ints, Ints]]
    """(offsets (N + 1,), values) of each id list."""
    numbers: dict[str, Floats]
    """(N,) of each number, float64; NaN where unknown."""
    counts: dict[str, tuple[Floats, Floats, Floats]]
    """(shown, happened, prior) of each count, (N,) each, as they are in the file."""
    history_R1: Ints
    """Offsets of the requests' histories, (R + 1,)."""
    history: dict[str, Ints]
    """(H,) of each id feature of the history."""
    history_ms_H: Ints
    """Time of the entry, milliseconds."""
    history_ratio_H: Floats
    """Watch ratio."""
    label_N: NDArray[np.bool_] | None
    """None: the file has no outcomes."""
    outcomes: dict[str, NDArray[np.bool_]]
    """(N,) of each outcome in `LABEL`: whether it is above 0. Empty: the file has no outcomes."""

    def __len__(self) -> int:
        """Impressions."""
        return len(self.request_N)

    @property
    def labels(self) -> NDArray[np.bool_]:
        assert self.label_N is not None, "these impressions have no outcomes"
        return self.label_N

    @property
    def timestamp_N(self) -> Ints:
        return self.timestamp_R[self.request_N]


def features(schema: pa.Schema) -> Features:
    """The features that a file of requests offers."""
    wanted = kuairand().schema
    fields = {field.name: field.type for field in schema.field("candidates").type.value_type}
    users = {"user_id", *(field.name for field in schema.field("user").type)}
    declared = {feature.column: feature.kind for feature in wanted.candidate}
    floats = [name for name, dtype in fields.items() if pa.types.is_floating(dtype) and name not in NOT_INPUTS]
    numbers = [name for name, kind in declared.items() if kind == "float" and name not in floats and name in fields]
    counts = _counts(schema)
    return Features(
        user_ids=tuple(feature.column for feature in wanted.user if feature.column in users),
        candidate_ids=tuple(name for name, kind in declared.items() if kind == "id" and name in fields),
        id_lists=tuple(name for name, kind in declared.items() if kind == "id_list" and name in fields),
        numbers=(*numbers, *floats, *(f"{name}.{number}" for name in counts for number in ("rate", "shown"))),
        history_ids=tuple(feature.column for feature in wanted.history),
    )


def without_outcomes(table: pa.Table) -> pa.Table:
    """The same requests without any column that is known only after an impression."""
    candidates = table["candidates"].combine_chunks()
    values, dtype = candidates.flatten(), candidates.type.value_type
    kept = [field.name for field in dtype if field.name not in NOT_INPUTS]
    struct = pa.StructArray.from_arrays(
        [values.field(name) for name in kept], fields=[dtype.field(name) for name in kept]
    )
    item = pa.field(candidates.type.value_field.name, struct.type, nullable=False)
    lists = pa.ListArray.from_arrays(_starts(candidates), struct, type=pa.list_(item))
    place = table.column_names.index("candidates")
    return table.set_column(place, pa.field("candidates", lists.type, nullable=False), lists)


def read(path: Path) -> Impressions:
    """The impressions of one Parquet file.

    Raises:
        UserError: the file lacks a column of KuaiRand's requests.
    """
    table = pq.read_table(path).combine_chunks()
    return flatten(table, str(path))


def flatten(table: pa.Table, where: str) -> Impressions:
    """The impressions of a table of requests; `where` names it in errors."""
    missing = {"request_id", "user_id", "timestamp_ms", "user", "history", "candidates"} - set(table.column_names)
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(sorted(missing))}: pass a folder that datasets/kuairand/prepare.py wrote"
        )
    found = features(table.schema)
    candidates, history, user = (table[name].combine_chunks() for name in ("candidates", "history", "user"))
    starts, values = _starts(candidates).to_numpy(), candidates.flatten()
    entries = history.flatten()
    request_N = np.repeat(np.arange(len(table)), np.diff(starts))
    user_R = table["user_id"].to_numpy()
    ids = {
        name: (user_R if name == "user_id" else user.field(name).to_numpy()).astype(np.int64)[request_N]
        for name in found.user_ids
    }
    ids |= {name: values.field(name).to_numpy().astype(np.int64) for name in found.candidate_ids}
    present = {field.name for field in values.type}
    outcomes = {name: values.field(name).to_numpy() > 0 for name in LABEL} if set(LABEL) <= present else {}
    return Impressions(
        features=found,
        request_id_R=table["request_id"].to_numpy(),
        timestamp_R=table["timestamp_ms"].to_numpy(),
        user_R=user_R,
        request_N=request_N,
        ids=ids,
        lists={
            name: (_starts(values.field(name)).to_numpy(), values.field(name).flatten().to_numpy().astype(np.int64))
            for name in found.id_lists
        },
        numbers={name: _number(values, name) for name in found.numbers},
        counts={name: _count(values, name) for name in _counts(table.schema)},
        history_R1=_starts(history).to_numpy(),
        history={name: entries.field(name).to_numpy().astype(np.int64) for name in found.history_ids},
        history_ms_H=entries.field("timestamp_ms").to_numpy(),
        history_ratio_H=entries.field("watch_ratio").to_numpy(),
        label_N=np.any(list(outcomes.values()), axis=0) if outcomes else None,
        outcomes=outcomes,
    )


def _counts(schema: pa.Schema) -> list[str]:
    """Names of the candidates' columns that are counts."""
    fields = schema.field("candidates").type.value_type
    return [
        field.name
        for field in fields
        if pa.types.is_struct(field.type) and set(COUNT) <= {part.name for part in field.type}
    ]


def _count(values: pa.StructArray, name: str) -> tuple[Floats, Floats, Floats]:
    """(shown, happened, prior), (N,) each."""
    shown_N, happened_N, prior_N = (values.field(name).field(part).to_numpy(zero_copy_only=False) for part in COUNT)
    return shown_N, happened_N, prior_N


def _number(values: pa.StructArray, name: str) -> Floats:
    column, _, number = name.partition(".")
    if number:
        shown_N, happened_N, prior_N = (part_N.astype(np.float64) for part_N in _count(values, column))
        if number == "shown":
            return np.log1p(shown_N)
        rate_N = np.clip((happened_N + SMOOTHING * prior_N) / (shown_N + SMOOTHING), 1e-6, 1 - 1e-6)
        return np.log(rate_N / (1 - rate_N))
    value_N = pc.fill_null(values.field(name).cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    return np.where(value_N == UNKNOWN_MS, np.nan, value_N) if name == "duration_ms" else value_N


def _starts(lists: pa.ListArray) -> pa.Array:
    """Offsets of the lists from 0, whatever slice of a larger array they are."""
    lengths = pc.list_value_length(lists).to_numpy()
    return pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
