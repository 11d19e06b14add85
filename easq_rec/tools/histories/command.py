"""`easq-rec data convert`: writes histories by reference, or into the requests.

Files of requests are taken together, in the order of their names, while their histories have at most `PART_ENTRIES`
entries; each such group has a file of `histories/`. Every history that is read back from the new files is compared with
the one that was read, entry by entry. One that is no range of its user's list is appended to the list.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data import files
from easq_rec.data.bad_rows import Place, no_nulls
from easq_rec.data.columns import Rows
from easq_rec.data.dataset import parquet_files
from easq_rec.data.decode import one_chunk
from easq_rec.data.histories import (
    COLUMN,
    FOLDER,
    REFERENCE,
    TIME,
    USER,
    HistoryFolder,
    HistoryLists,
    part_name,
    refers,
)
from easq_rec.data.kinds import A_LIST, offsets
from easq_rec.data.writer import check_unused, open_writer, published, required
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Engine
from easq_rec.tools.builder.sql import file_literal, identifier
from easq_rec.tools.builder.tables import connect
from easq_rec.tools.histories.timeline import NUMBER, Timeline, with_copies

Layout = Literal["reference", "inline"]
REQUESTS = "requests"
PART_ENTRIES = 128_000_000
"""Entries of histories in the requests of one file of `histories/`. Most are repeated, so the file has far fewer. They
bound the memory of a conversion."""
LIST_GROUP = 2_048
"""HistoryLists per row group of `histories/`."""


@dataclass(kw_only=True)
class Converted:
    """What a conversion did."""

    requests: int = 0
    entries: int = 0
    """Of the histories in the requests."""
    stored: int = 0
    """Of the lists in `histories/`."""
    copies: int = 0
    """HistoryFolder that are no ranges of their user's list and were appended to it."""
    before_bytes: int = 0
    after_bytes: int = 0
    """Of requests and histories."""


def convert(
    directory: Path, out: Path, *, histories: Layout, part_entries: int = PART_ENTRIES, engine: Engine | None = None
) -> str:
    """Writes a data directory with its requests in another layout to `out`, and returns a summary.

    Files, row groups and rows of `requests/` keep their order and their names. All other files are copied.

    Raises:
        UserError: the requests have this layout already, are missing, unreadable or without a user or history, or
            `out` is used.
    """
    check_unused(out)
    source = directory / REQUESTS
    if not source.is_dir():
        raise UserError(f"{directory}: it has no folder {REQUESTS}/ (see docs/reference/data-contract.md)")
    names = parquet_files(source)
    referring = [refers(pq.read_schema(name)) for name in names]
    if any(referring) != all(referring):
        raise UserError(f"{source}: some of its files have histories by reference, and others do not")
    if referring[0] == (histories == "reference"):
        raise UserError(f"{directory}: its histories are stored like this already (--histories {histories})")
    with published(out) as folder:
        found = Converted()
        if histories == "reference":
            with (
                tempfile.TemporaryDirectory(prefix="easq-rec-convert-") as temp,
                connect(engine or Engine(), Path(temp)) as connection,
            ):
                connection.execute("SET enable_progress_bar = false")
                for part, group in enumerate(_groups(names, part_entries)):
                    _refer(connection, group, source, folder, part, found)
        else:
            _write_inline(names, source, folder, found)
        for name in files.all_files(directory):
            if not name.startswith((f"{REQUESTS}/", f"{FOLDER}/")):
                files.copy(files.join(directory, name), folder / name)
        found.before_bytes = _size(source) + _size(directory / FOLDER)
        found.after_bytes = _size(folder / REQUESTS) + _size(folder / FOLDER)
    return _summary(out, histories, found)


def _groups(names: list[str], part_entries: int) -> Iterator[list[str]]:
    """Consecutive files whose histories have at most so many entries, or one file that has more."""
    held: list[str] = []
    entries = 0
    for name in names:
        own = _entries(name)
        if held and entries + own > part_entries:
            yield held
            held, entries = [], 0
        held.append(name)
        entries += own
    yield held


def _entries(name: str) -> int:
    """Entries of the histories of a file, from its footer."""
    with pq.ParquetFile(name) as parquet:
        metadata = parquet.metadata
    leaf = f"{COLUMN}.list.element.{TIME}"
    total = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = {group.column(leaf).path_in_schema: group.column(leaf) for leaf in range(group.num_columns)}
        if leaf not in columns:
            raise UserError(f"{name}: it has no column {COLUMN} with entries that have a {TIME}: {[*columns]}")
        total += columns[leaf].num_values
    return total


def _refer(
    connection: duckdb.DuckDBPyConnection, group: list[str], source: Path, folder: Path, part: int, found: Converted
) -> None:
    """Writes the requests of a group of files, and their file of `histories/`."""
    listed = ", ".join(map(file_literal, group))
    rows = [pq.read_metadata(name).num_rows for name in group]
    before = ", ".join(str(sum(rows[:index])) for index in range(len(group)))
    requests = (
        f"(SELECT {identifier(USER)}, {identifier(COLUMN)}, "
        f"[{before}][file_index::BIGINT + 1] + file_row_number AS {NUMBER} "
        f"FROM read_parquet([{listed}], hive_partitioning=false))"
    )
    entry = pq.read_schema(group[0]).field(COLUMN).type.value_type
    try:
        timeline = Timeline.of(connection, requests, entry)
    except duckdb.Error as error:
        raise UserError(f"{source}: cannot be converted: {str(error).splitlines()[0]}") from error
    # All histories are compared before a request is written: those that are no ranges lengthen the lists.
    places: list[tuple[Rows, Rows, Rows]] = []
    copies: list[tuple[int, pa.StructArray]] = []
    copied: list[tuple[int, int]] = []
    for number_R, table, place in _row_groups(group, [USER, COLUMN]):
        history = _checked(table, place)
        length_R = offsets(history)[1:] - offsets(history)[:-1]
        row_R, begin_R = timeline.ranges(table[USER].to_numpy(), number_R, length_R)
        for row in _different(timeline.lists, history, row_R, begin_R, length_R).tolist():
            copied.append((len(places), row))
            copies.append((int(row_R[row]), history[row].values))
        places.append((row_R, begin_R, length_R))
        found.requests += len(table)
        found.entries += int(length_R.sum())
    lists, begins = with_copies(timeline.lists, copies)
    for (index, row), begin in zip(copied, begins, strict=True):
        places[index][1][row] = begin
    found.copies += len(copies)
    found.stored += len(lists.entries)
    _write_lists(lists, folder / FOLDER / part_name(part), entry)
    with _SameFiles(source, folder / REQUESTS) as writer:
        for (_, table, place), (row_R, begin_R, length_R) in zip(_row_groups(group), places, strict=True):
            wrong = _different(lists, one_chunk(table[COLUMN]), row_R, begin_R, length_R)
            if len(wrong):
                raise UserError(
                    f"{place.file}, row group {place.row_group}, row {wrong[0]}: the history cannot be stored by "
                    f"reference: its entries must be in the order of {TIME}, oldest first"
                )
            writer.write(place.file, _with_references(table, part, row_R, begin_R, length_R))


def _checked(table: pa.Table, place: Place) -> pa.ListArray:
    """The histories of a row group. Raises BadRows for nulls, which have no place in the layout."""
    no_nulls(one_chunk(table[USER]), USER, place, "an integer")
    history = one_chunk(table[COLUMN])
    no_nulls(history, COLUMN, place, A_LIST)
    owner = np.repeat(np.arange(len(history)), np.diff(offsets(history)))
    no_nulls(history.flatten(), COLUMN, place, "a struct", owner)
    return history


def _with_references(table: pa.Table, part: int, row_R: Rows, begin_R: Rows, length_R: Rows) -> pa.Table:
    numbers = (np.full(len(table), part), row_R, begin_R, length_R)
    column = pa.StructArray.from_arrays([pa.array(n.astype(np.int32)) for n in numbers], fields=list(REFERENCE))
    return table.set_column(table.schema.get_field_index(COLUMN), pa.field(COLUMN, REFERENCE, nullable=False), column)


def _different(lists: HistoryLists, history: pa.ListArray, row_R: Rows, begin_R: Rows, length_R: Rows) -> Rows:
    """The requests whose ranges of the lists are not their histories."""
    most_R = (lists.offset_L1[1:] - lists.offset_L1[:-1])[row_R]
    inside = np.flatnonzero((begin_R >= 0) & (begin_R + length_R <= most_R))
    again = lists.ranges(lists.offset_L1[row_R[inside]] + begin_R[inside], length_R[inside]).flatten()
    wanted = history.take(pa.array(inside)).flatten()
    different_E = np.zeros(len(wanted), np.bool_)
    for name in (field.name for field in wanted.type):
        different_E |= _unequal(again.field(name), wanted.field(name))
    owner_E = np.repeat(inside, length_R[inside])
    outside = np.setdiff1d(np.arange(len(history)), inside, assume_unique=True)
    return np.union1d(outside, owner_E[different_E])


def _unequal(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """Where two columns differ, bit by bit."""
    dtype = other.type
    if (pa.types.is_integer(dtype) or pa.types.is_floating(dtype)) and not one.null_count and not other.null_count:
        bits = f"u{dtype.bit_width // 8}"
        return one.to_numpy().view(bits) != other.to_numpy().view(bits)
    if one.equals(other):
        return np.zeros(len(other), np.bool_)
    return np.array([a != b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)], np.bool_)


def _row_groups(group: list[str], columns: list[str] | None = None) -> Iterator[tuple[Rows, pa.Table, Place]]:
    """(numbers of the requests from 0, rows, place) of all row groups of a group of files."""
    behind = 0
    for name in group:
        with pq.ParquetFile(name) as parquet:
            for row_group in range(parquet.num_row_groups):
                table = parquet.read_row_group(row_group, columns=columns, use_threads=False)
                number_R = behind + np.arange(len(table))
                behind += len(table)
                yield number_R, table, Place(file=name, row_group=row_group)


def _write_lists(lists: HistoryLists, file: Path, entry: pa.DataType) -> None:
    """Writes a file of `histories/`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = required(pa.schema([pa.field(USER, pa.int64()), pa.field(COLUMN, pa.list_(entry))]), ())
    with open_writer(file, schema) as writer:
        for begin in range(0, max(len(lists.user_L), 1), LIST_GROUP):
            users = lists.user_L[begin : begin + LIST_GROUP]
            starts = lists.offset_L1[begin : begin + len(users) + 1]
            entries = lists.entries.slice(int(starts[0]), int(starts[-1] - starts[0]))
            column = pa.ListArray.from_arrays(pa.array((starts - starts[0]).astype(np.int32)), entries)
            table = pa.table({USER: users, COLUMN: column})
            writer.write_table(table.cast(schema), row_group_size=LIST_GROUP)


def _write_inline(names: list[str], source: Path, folder: Path, found: Converted) -> None:
    histories = HistoryFolder(source)
    with _SameFiles(source, folder / REQUESTS) as writer:
        for _, table, place in _row_groups(names):
            field = required(pa.schema([pa.field(COLUMN, histories.field.type)]), ()).field(COLUMN)
            table = histories.resolve(table, place)
            column = one_chunk(table[COLUMN]).cast(field.type)
            found.requests += len(table)
            found.entries += int(offsets(column)[-1])
            writer.write(place.file, table.set_column(table.schema.get_field_index(COLUMN), field, column))
    found.stored = found.entries


class _SameFiles:
    """Writes the row groups of a dataset's files, which come in order, to files of the same names."""

    def __init__(self, source: Path, out: Path) -> None:
        self._source = source
        self._out = out
        self._file = ""
        self._open: pq.ParquetWriter | None = None

    def __enter__(self) -> _SameFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()

    def write(self, file: str, table: pa.Table) -> None:
        """Appends a row group of a file."""
        if file != self._file:
            if self._open is not None:
                self._open.close()
            target = self._out / Path(file).relative_to(self._source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._open = file, open_writer(target, table.schema)
        assert self._open is not None
        self._open.write_table(table, row_group_size=max(len(table), 1))


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _summary(out: Path, histories: Layout, found: Converted) -> str:
    before, after = found.before_bytes, found.after_bytes
    lines = [
        f"{out}: {found.requests:,} requests with {found.entries:,} entries of histories, {histories}",
        f"  {before / 2**20:,.1f} MiB before, {after / 2**20:,.1f} MiB now ({after / before:.0%})",
    ]
    if histories == "reference":
        lines.append(
            f"  {found.stored:,} entries stored; {found.copies:,} histories are no ranges of their user's list and are "
            "stored as copies"
        )
    return "\n".join(lines)
