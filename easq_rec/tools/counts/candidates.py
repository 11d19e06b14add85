"""Candidates of a row group as arrays, and row groups with more columns of the candidates.

Shape suffixes: R requests, N candidates of all requests, A answers, C codes of answers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import FeatureSchema
from easq_rec.data.bad_rows import Place, check, no_nulls
from easq_rec.data.columns import Array, Ragged, Rows
from easq_rec.data.count_keys import CANDIDATES, key_columns, key_ids
from easq_rec.data.counts import CountedImpressions, take
from easq_rec.data.dataset import TIME
from easq_rec.data.decode import one_chunk
from easq_rec.data.kinds import A_LIST, COUNT_FIELDS, NO_TIME, Column, offsets, read
from easq_rec.data.layout import Layout, leaf_types
from easq_rec.data.published_counts import Impressions
from easq_rec.errors import UserError

KNOWN, WATCHED = "candidates.known_ms", "candidates.watch_ms"
ANSWER, ANSWERED = "candidates.answer", "candidates.answered_at_ms"
COUNT = pa.struct([pa.field(name, pa.float32(), nullable=False) for name in COUNT_FIELDS])
"""Arrow type of a count."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates of a row group."""

    request_ms_N: Rows
    """Time of the request of each."""
    ids: Mapping[str, Array | Ragged]
    """By key of a count, the ids of each."""
    impressions: CountedImpressions | None
    """Those that are counted; None: none is."""


def count_layout(schema: FeatureSchema, file_schema: pa.Schema, where: str, *, counted: Impressions | None) -> Layout:
    """The columns that counts need.

    Args:
        file_schema: of one file; keys may be integers or lists of integers there.
        where: names the file.
        counted: which counts the impressions of the file enter, so that outcomes or answers are read, with their times;
            None: they are only looked up.

    Raises:
        UserError: a count has two keys that are lists, or the candidates already have a column with its name.
    """
    types = dict(leaf_types(file_schema))
    columns = [Column(path=TIME, kind="id"), *key_columns(schema, file_schema)]
    for count in schema.counts:
        path = f"{CANDIDATES}.{count.name}"
        if any(found == path or found.startswith(f"{path}.") for found in types):
            raise UserError(f"{where}: already has a column {path}: start from data without it, or rename the count")
    if counted == "outcome":
        columns += [Column(path=f"{CANDIDATES}.{name}", kind="float") for name in _outcomes(schema)]
        time = next((path for path in (KNOWN, WATCHED) if path in types), None)
        columns += [] if time is None else [Column(path=time, kind="id")]
    elif counted == "answer":
        columns.append(Column(path=ANSWER, kind="answer", answers=schema.answers))
        columns.append(Column(path=ANSWERED, kind="optional_time"))
    return Layout(schema=schema, columns=tuple({column.path: column for column in columns}.values()))


def read_candidates(table: pa.Table, layout: Layout, place: Place) -> Candidates:
    """Reads a row group.

    Raises:
        BadRows: a null, an outcome that is not from 0 to 1, an answer that the scale does not have, or one of them that
            was known before its request.
    """
    columns = {column.path: column for column in layout.columns}
    lists = one_chunk(table.column(CANDIDATES))
    no_nulls(lists, CANDIDATES, place, A_LIST)
    lengths_R = np.diff(offsets(lists))
    owner_N = np.repeat(np.arange(len(lists)), lengths_R)
    entries = lists.flatten()
    no_nulls(entries, CANDIDATES, place, "a struct", owner_N)

    def value(path: str) -> Array | Ragged:
        """A column of the candidates, or of the requests and repeated for their candidates."""
        column, (group, _, name) = columns[path], path.rpartition(".")
        if group == CANDIDATES:
            return read(entries.field(name), column, place, owner_N)
        array = one_chunk(table.column(group or name))
        if group:
            no_nulls(array, group, place, "a struct")
            array = array.field(name)
        found = read(array, column, place, None)
        return found.take(owner_N) if isinstance(found, Ragged) else found[owner_N]

    def number(path: str) -> Array:
        found = value(path)
        assert not isinstance(found, Ragged)
        return found

    request_ms_N = number(TIME)
    ids = key_ids(layout.schema, value)
    impressions = None
    # An outcome may be called `answer`, too.
    if ANSWER in columns and columns[ANSWER].kind == "answer":
        answer_N, known_ms_N = number(ANSWER), number(ANSWERED)
        found = np.where(known_ms_N == NO_TIME, "null", known_ms_N.astype(str))
        early = (answer_N != NO_ANSWER) & (known_ms_N < request_ms_N)
        check(early, found, ANSWERED, place, owner_N, "a time at or after the request's timestamp_ms, for an answer")
        # Only answered candidates are impressions of these counts.
        rows = np.flatnonzero(answer_N != NO_ANSWER)
        scale = layout.schema.answers
        degree_C = np.array(list(scale.satisfaction.values()))
        degree_A = degree_C[answer_N[rows] - scale.first]
        impressions = CountedImpressions(ids=take(ids, rows), known_ms=known_ms_N[rows], outcomes={"answer": degree_A})
    elif names := [name for name in _outcomes(layout.schema) if f"{CANDIDATES}.{name}" in columns]:
        outcomes = {name: number(f"{CANDIDATES}.{name}") for name in names}
        for name, outcome_N in outcomes.items():
            wrong = (outcome_N < 0) | (outcome_N > 1)
            check(wrong, outcome_N, f"{CANDIDATES}.{name}", place, owner_N, "an outcome from 0 to 1")
        known_ms_N = _known_ms(columns, number, request_ms_N, len(lists), place, owner_N)
        impressions = CountedImpressions(ids=ids, known_ms=known_ms_N, outcomes=outcomes)
    return Candidates(request_ms_N=request_ms_N, ids=ids, impressions=impressions)


def _known_ms(
    columns: Container[str],
    number: Callable[[str], Array],
    request_ms_N: Rows,
    requests: int,
    place: Place,
    owner_N: Rows,
) -> Rows:
    """When the outcome of each candidate was known. Raises BadRows if that is before its request."""
    if KNOWN in columns:
        known_ms_N = number(KNOWN)
        early = known_ms_N < request_ms_N
        check(early, known_ms_N, KNOWN, place, owner_N, "a time at or after the request's timestamp_ms")
        return known_ms_N
    if WATCHED in columns:
        watched_N = number(WATCHED)
        check(watched_N < 0, watched_N, WATCHED, place, owner_N, "0 or more milliseconds")
        # The times within a request are not known. Videos are watched one after another, so the end of the last watch
        # is never too early for any of them.
        together_R = np.zeros(requests, np.int64)
        np.add.at(together_R, owner_N, watched_N)
        return request_ms_N + together_R[owner_N]
    return request_ms_N


def _outcomes(schema: FeatureSchema) -> list[str]:
    """Columns of the outcomes that are counted."""
    return list(dict.fromkeys(count.outcome for count in schema.counts if count.outcome is not None))


def with_counts(table: pa.Table, columns: Mapping[str, npt.NDArray[np.float32]]) -> pa.Table:
    """The row group with more columns of the candidates, each (N, 3)."""
    schema = counted_schema(table.schema, columns)
    lists = one_chunk(table.column(CANDIDATES))
    entries = lists.flatten()
    dtype = schema.field(CANDIDATES).type
    children = [entries.field(index) for index in range(entries.type.num_fields)]
    for column in columns.values():
        numbers = [pa.array(np.ascontiguousarray(part)) for part in column.T]
        children.append(pa.StructArray.from_arrays(numbers, fields=list(COUNT)))
    struct = pa.StructArray.from_arrays(children, fields=list(dtype.value_type))
    wide = pa.types.is_large_list(dtype)
    starts = pa.array(offsets(lists), pa.int64() if wide else pa.int32())
    joined = (pa.LargeListArray if wide else pa.ListArray).from_arrays(starts, struct, type=dtype)
    place = schema.get_field_index(CANDIDATES)
    return table.set_column(place, schema.field(place), joined).cast(schema)


def counted_schema(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """The schema of a file with more columns of the candidates."""
    place = schema.get_field_index(CANDIDATES)
    field = schema.field(place)
    entry = field.type.value_field
    more = [pa.field(name, COUNT, nullable=False) for name in names]
    entry = entry.with_type(pa.struct([*entry.type, *more]))
    dtype = pa.large_list(entry) if pa.types.is_large_list(field.type) else pa.list_(entry)
    return schema.set(place, field.with_type(dtype))
