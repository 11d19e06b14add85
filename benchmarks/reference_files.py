"""Requests of the reference workload as Parquet files of the data contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.train_step import random_requests
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.writer import ROW_GROUP, PartWriter

ANSWERS = 2_000
FIRST_MS = 1_700_000_000_000
"""Time of the first request."""


def write(folder: Path, requests: int) -> None:
    """Writes `requests/` and `answers/` with the project's writer."""
    rng = np.random.default_rng(0)
    writer = PartWriter(folder / "requests")
    for begin in range(0, requests, ROW_GROUP):
        writer.write(to_table(random_requests(min(ROW_GROUP, requests - begin), rng), first_id=begin))
    writer.close()
    answers = PartWriter(folder / "answers")
    answers.write(to_table(random_requests(ANSWERS, rng), answered=True))
    answers.close()


def to_table(columns: RequestColumns, *, first_id: int = 0, answered: bool = False) -> pa.Table:
    """Requests in the form of the data contract; with `answered`, the first candidate of each has an answer."""
    scalars = dict(columns.scalars)
    user = {name.removeprefix("user."): scalars.pop(name) for name in list(scalars) if name.startswith("user.")}
    drawn = scalars["timestamp_ms"]
    scalars["timestamp_ms"] = FIRST_MS + 1_000 * (first_id + np.arange(len(columns)))
    scalars["request_id"] = first_id + np.arange(len(columns))
    # Entries have the drawn ages.
    later = np.repeat(scalars["timestamp_ms"] - drawn, columns.history.lengths)
    history = {**columns.history.children, "timestamp_ms": columns.history.column("timestamp_ms") + later}
    candidates = _list_of_structs(columns.candidates)
    if answered:
        first = np.zeros(len(candidates.values), bool)
        first[columns.candidates.offsets[:-1]] = True
        owner = np.repeat(np.arange(len(columns)), columns.candidates.lengths)
        fields = {field.name: candidates.values.field(field.name) for field in candidates.type.value_type}
        fields["answer"] = pa.array((owner % 2 * 2).astype(np.int8), mask=~first)
        fields["answered_at_ms"] = pa.array(scalars["timestamp_ms"][owner] + 60_000, mask=~first)
        candidates = pa.ListArray.from_arrays(candidates.offsets, _struct(fields))
    return pa.table(
        {
            **scalars,
            "user": _struct(user),
            "history": _list_of_structs(Ragged(offsets=columns.history.offsets, children=history)),
            "candidates": candidates,
        }
    )


def _struct(fields: dict[str, Array | pa.Array]) -> pa.StructArray:
    arrays = [field if isinstance(field, pa.Array) else pa.array(field) for field in fields.values()]
    return pa.StructArray.from_arrays(arrays, names=list(fields))


def _list_of_structs(ragged: Ragged) -> pa.ListArray:
    children: dict[str, Array | pa.Array] = {}
    for name, child in ragged.children.items():
        if isinstance(child, Ragged):
            children[name] = pa.ListArray.from_arrays(_offsets(child), pa.array(child.column("values")))
        else:
            children[name] = child
    return pa.ListArray.from_arrays(_offsets(ragged), _struct(children))


def _offsets(ragged: Ragged) -> pa.Array:
    return pa.array(ragged.offsets.astype(np.int32))
