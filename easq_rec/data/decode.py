"""Arrow row groups to `RequestColumns`. `easq_rec.data.kinds` reads and checks the single columns.

Bad values raise `BadRows`, which names file, row group, row, column, value and the expected values, and lists all rows
that fail the same check.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import pyarrow as pa

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.data.bad_rows import BadRows, Place, no_nulls
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.kinds import A_LIST, NO_TIME, Column, is_list, offsets, read
from easq_rec.data.layout import Layout


def decode(table: pa.Table, layout: Layout, place: Place, *, max_history: int) -> RequestColumns:
    """Decodes one row group or message; histories keep their last `max_history` entries.

    Args:
        table: may have columns that the layout lacks, which are left out.
    """
    columns = {column.path: column for column in layout.columns}
    read_fields = {path.split(".", 1)[0] for path in columns}
    scalars: dict[str, Array] = {}
    lists: dict[str, Ragged] = {}
    ragged: dict[str, Ragged] = {}
    for field in table.schema:
        if field.name not in read_fields:
            continue
        array = one_chunk(table.column(field.name))
        if pa.types.is_struct(array.type):
            no_nulls(array, field.name, place, "a struct")
            for name, child in _fields(array, field.name, columns):
                path = f"{field.name}.{name}"
                column = read(child, columns[path], place, None)
                if isinstance(column, Ragged):
                    lists[path] = column
                else:
                    scalars[path] = column
        elif is_list(array.type):
            ragged[field.name] = _struct_list(array, field.name, columns, place)
        else:
            column = read(array, columns[field.name], place, None)
            assert not isinstance(column, Ragged), "columns of the request itself are ids and times"
            scalars[field.name] = column
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
    owner = candidates.owners
    early = np.flatnonzero((candidates.column("answer") != NO_ANSWER) & (time < requests.timestamp_ms[owner]))
    if len(early):
        found = np.where(time[early] == NO_TIME, "null", time[early].astype(str))
        expected = "a time at or after the request's timestamp_ms, for an answer"
        raise BadRows(place, "candidates.answered_at_ms", expected, owner[early], found)


def _struct_list(array: pa.Array, name: str, columns: dict[str, Column], place: Place) -> Ragged:
    no_nulls(array, name, place, A_LIST)
    starts = offsets(array)
    # The row of each entry: only for messages about bad values.
    owner = np.repeat(np.arange(len(array)), np.diff(starts))
    values = array.flatten()
    no_nulls(values, name, place, "a struct", owner)
    children = {
        child: read(column, columns[f"{name}.{child}"], place, owner)
        for child, column in _fields(values, name, columns)
    }
    return Ragged(offsets=starts, children=children)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column of a row group as one array, without a copy if it is one."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _fields(array: pa.Array, parent: str, columns: Container[str]) -> list[tuple[str, pa.Array]]:
    """Names and values of the fields that are read."""
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    return [(name, array.field(index)) for index, name in enumerate(names) if f"{parent}.{name}" in columns]
