"""What a server has answered, as requests of the data contract.

A served request with these columns is a training request without its outcomes. So the trainer reads the same values
that the program has read. No second computation of the features is needed, which could differ.

Legend: R requests, N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.config import Config
from easq_rec.data.kinds import COUNT_FIELDS, Column
from easq_rec.data.layout import Layout
from easq_rec.export.inputs import CANDIDATES, HISTORY, Input, inputs_of_column, lengths, weights
from easq_rec.export.request import Decoded

SCORE, SECOND_SCORE, SERVED = "score", "second_score", "served"
"""Columns besides those of the data contract: two of each candidate, and one of the request."""


@dataclass(frozen=True, kw_only=True)
class ScoredCall:
    """A call and what was answered."""

    call: Decoded
    score_N: NDArray[np.float32]
    """What the caller got."""
    arm_R: Sequence[str]
    versions: Mapping[str, str]
    """Version of the package by arm."""
    second_N: NDArray[np.float32] | None = None
    """Scores of the second package, where it answers no one."""


def logged_inputs(config: Config) -> tuple[Input, ...]:
    """All columns of a training request but outcomes, as callers send them."""
    groups = [Input(name=lengths(group), dtype="int64", axis="requests") for group in (HISTORY, CANDIDATES)]
    return (*groups, *(one for column in _columns(config) for one in inputs_of_column(column)))


def logged_bounds(config: Config) -> dict[str, int]:
    """Rows of the dense tables that columns of ids index, by column."""
    return {column.path: column.table.rows for column in _columns(config) if column.table is not None}


def _columns(config: Config) -> tuple[Column, ...]:
    return Layout.of(config.schema, outcomes=False).columns


def requests_table(config: Config, calls: Sequence[ScoredCall]) -> pa.Table:
    """The requests of some calls, as rows of `requests/`. Outcomes are missing.

    Further columns: `candidates.score`, `candidates.second_score` (null: not scored), and `served` with the arm and the
    version of each request.
    """
    names = [one.name for one in logged_inputs(config)]
    joined = {name: np.concatenate([one.call.columns[name] for one in calls]) for name in dict.fromkeys(names)}
    columns: dict[str, dict[str, pa.Array]] = {"": {}, "user": {}, HISTORY: {}, CANDIDATES: {}}
    for column in _columns(config):
        group, _, name = column.path.rpartition(".")
        columns[group][name] = _array(column, joined)
    columns[CANDIDATES][SCORE] = pa.array(np.concatenate([one.score_N for one in calls]), pa.float32())
    columns[CANDIDATES][SECOND_SCORE] = pa.concat_arrays([_second(one) for one in calls])
    arms = [(arm, one.versions[arm]) for one in calls for arm in one.arm_R]
    table = dict(columns[""])
    if columns["user"]:
        table["user"] = _struct(columns["user"])
    for group in (HISTORY, CANDIDATES):
        table[group] = _lists(joined[lengths(group)], _struct(columns[group]))
    arm, version = (pa.array(values, pa.string()) for values in zip(*arms, strict=True))
    table[SERVED] = _struct({"arm": arm, "version": version})
    return pa.table(table)


def _second(one: ScoredCall) -> pa.Array:
    if one.second_N is None:
        return pa.nulls(one.call.candidates, pa.float32())
    return pa.array(one.second_N, pa.float32())


def _array(column: Column, joined: Mapping[str, NDArray[Any]]) -> pa.Array:
    values = joined[column.path]
    match column.kind:
        case "float_list":
            return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        case "count":
            return _struct({name: pa.array(values[:, place]) for place, name in enumerate(COUNT_FIELDS)})
        case "id_list":
            return _lists(joined[lengths(column.path)], pa.array(values))
        case "weighted_id_list":
            items = _struct({"id": pa.array(values), "weight": pa.array(joined[weights(column.path)])})
            return _lists(joined[lengths(column.path)], items)
    return pa.array(values)


def _lists(length: NDArray[np.int64], items: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(length)]).astype(np.int32), items)


def _struct(children: Mapping[str, pa.Array]) -> pa.Array:
    return pa.StructArray.from_arrays(list(children.values()), names=list(children))
