"""Arrow row groups to `RequestColumns`: child arrays and offsets are used without a copy, checked column by column.

Bad values raise `BadRows`, which names file, row group, row, column, value and the expected values, and lists all rows
that fail the same check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.data.columns import Array, Ragged, RequestColumns, Rows
from easq_rec.data.layout import Column, Layout
from easq_rec.errors import UserError

NO_TIME = -1
"""Represents a null in an optional time."""


class BadRows(UserError):
    """Rows of a table that fail one check. The message describes the first of them."""

    def __init__(self, place: Place, column: str, expected: str, rows: Rows, values: Array) -> None:
        self.column = column
        self.expected = expected
        self.rows, first = np.unique(rows, return_index=True)
        """Positions of the bad rows in the table, ascending."""
        self.values = [str(value) for value in values[first]]
        """The first bad value of each bad row."""
        row = self.rows[0] if place.rows is None else place.rows[self.rows[0]]
        at = f"{place.file}, row group {place.row_group}, row {row}, column {column}"
        super().__init__(f"{at}: found {self.values[0]}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Origin of a table, for error messages."""

    file: str
    row_group: int
    rows: Rows | None = None
    """Positions of the table's rows in the row group; None: the table is the whole row group."""


def decode(table: pa.Table, layout: Layout, place: Place, *, max_history: int) -> RequestColumns:
    """Decodes one row group; histories keep their last `max_history` entries."""
    columns = {column.path: column for column in layout.columns}
    scalars: dict[str, Array] = {}
    lists: dict[str, Ragged] = {}
    ragged: dict[str, Ragged] = {}
    for field in table.schema:
        array = _one_chunk(table.column(field.name))
        if pa.types.is_struct(array.type):
            _no_nulls(array, field.name, place, "a struct")
            for name, child in _fields(array):
                path = f"{field.name}.{name}"
                if columns[path].kind == "id_list":
                    lists[path] = _id_list(child, columns[path], place, np.arange(len(child)))
                else:
                    scalars[path] = _flat(child, columns[path], place, None)
        elif _is_list(array.type):
            ragged[field.name] = _struct_list(array, field.name, columns, place)
        else:
            scalars[field.name] = _flat(array, columns[field.name], place, None)
    requests = RequestColumns(
        scalars=scalars, lists=lists, history=ragged["history"].last(max_history), candidates=ragged["candidates"]
    )
    _no_duplicates(requests, place)
    if "answered_at_ms" in requests.candidates.children:
        _no_early_answers(requests, place)
    return requests


def _no_duplicates(requests: RequestColumns, place: Place) -> None:
    """Checks ids within a row group; `easq-rec data inspect` finds duplicates across row groups."""
    ids = requests.scalars["request_id"]
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        raise BadRows(place, "request_id", "an id that no other row of the row group has", again, ids[again])


def _no_early_answers(requests: RequestColumns, place: Place) -> None:
    candidates = requests.candidates
    time = candidates.column("answered_at_ms")
    owner = np.repeat(np.arange(len(requests)), candidates.lengths)
    early = np.flatnonzero((candidates.column("answer") != NO_ANSWER) & (time < requests.timestamp_ms[owner]))
    if len(early):
        found = np.where(time[early] == NO_TIME, "null", time[early].astype(str))
        expected = "a time at or after the request's timestamp_ms, for an answer"
        raise BadRows(place, "candidates.answered_at_ms", expected, owner[early], found)


def _struct_list(array: pa.Array, name: str, columns: dict[str, Column], place: Place) -> Ragged:
    _no_nulls(array, name, place, "a list (an empty one where there is nothing)")
    offsets = _offsets(array)
    # The row of each entry: needed only to name the location of a bad value.
    owner = np.repeat(np.arange(len(array)), np.diff(offsets))
    values = array.flatten()
    _no_nulls(values, name, place, "a struct", owner)
    children: dict[str, Array | Ragged] = {}
    for child_name, child in _fields(values):
        column = columns[f"{name}.{child_name}"]
        if column.kind == "id_list":
            children[child_name] = _id_list(child, column, place, owner)
        else:
            children[child_name] = _flat(child, column, place, owner)
    return Ragged(offsets=offsets, children=children)


def _id_list(array: pa.Array, column: Column, place: Place, owner: Rows) -> Ragged:
    _no_nulls(array, column.path, place, "a list (an empty one where there is nothing)", owner)
    offsets = _offsets(array)
    inner = np.repeat(owner, np.diff(offsets))
    return Ragged(offsets=offsets, children={"values": _flat(array.flatten(), column, place, inner)})


def _flat(array: pa.Array, column: Column, place: Place, owner: Rows | None) -> Array:
    """One flat column as int64 (ids, times), int8 (answers) or float32, with nulls and bounds checked."""
    match column.kind:
        case "answer":
            scale = column.answers
            assert scale is not None
            # Nulls get a valid code for the check and NO_ANSWER after it: NO_ANSWER is not a valid code in a file.
            values = array.fill_null(scale.first).to_numpy(zero_copy_only=False)
            strange = (values < scale.first) | (values > scale.last)
            _check(strange, values, column, place, owner, f"null, {scale.expected}")
            return np.where(_nulls(array), NO_ANSWER, values.astype(np.int8))
        case "optional_time":
            times = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            return np.where(_nulls(array), NO_TIME, times)
        case "optional_float":
            numbers = array.to_numpy(zero_copy_only=False)
            floats = _float32(numbers)
            _check(np.isinf(floats), numbers, column, place, owner, "a finite number (float32), or null")
            return floats
        case "float":
            _no_nulls(array, column.path, place, "a number", owner)
            numbers = array.to_numpy(zero_copy_only=False)
            floats = _float32(numbers)
            _check(~np.isfinite(floats), numbers, column, place, owner, "a finite number (float32)")
            return floats
        case "id" | "id_list":
            _no_nulls(array, column.path, place, "an integer", owner)
            found = array.to_numpy(zero_copy_only=False)
            ids = found.astype(np.int64, copy=False)
            if found.dtype == np.uint64:
                _check(ids < 0, found, column, place, owner, "an integer below 2**63")
            if column.table is not None:
                rows = column.table.rows
                expected = f"0..{rows - 1} (dense table {column.table.name!r})"
                _check((ids < 0) | (ids >= rows), ids, column, place, owner, expected)
            return ids


def _float32(numbers: Array) -> npt.NDArray[np.float32]:
    """Values beyond the range of float32 become infinite; the caller rejects them."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32, copy=False)


def _nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    return array.is_null().to_numpy(zero_copy_only=False)


def _check(bad: Array, values: Array, column: Column, place: Place, owner: Rows | None, expected: str) -> None:
    if bad.any():
        entries = np.flatnonzero(bad)
        rows = entries if owner is None else owner[entries]
        raise BadRows(place, column.path, expected, rows, values[entries])


def _no_nulls(array: pa.Array, path: str, place: Place, expected: str, owner: Rows | None = None) -> None:
    if array.null_count:
        entries = np.flatnonzero(_nulls(array))
        rows = entries if owner is None else owner[entries]
        raise BadRows(place, path, expected, rows, np.full(len(rows), "null"))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _offsets(array: pa.Array) -> Rows:
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, dtype=np.int64)


def _fields(array: pa.Array) -> list[tuple[str, pa.Array]]:
    return [(array.type.field(index).name, array.field(index)) for index in range(array.type.num_fields)]


def _is_list(dtype: pa.DataType) -> bool:
    return pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
