"""A directory of time-ordered Parquet files: footers, time line, and row groups as columns."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data import files
from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import Array, RequestColumns, Rows
from easq_rec.data.decode_rows import decode_with_positions, set_aside
from easq_rec.data.histories import HistoryFolder, leaf_indices, refers
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.timestamp_units import unit_problem
from easq_rec.errors import UserError
from easq_rec.upstream.pyarrow_parquet import read_row_group

TIME = "timestamp_ms"


@dataclass(frozen=True, kw_only=True)
class Period:
    """A half-open span of time, in milliseconds."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group, and the number of its requests in the dataset's period."""

    file: str
    index: int
    rows: int
    kept: int
    first_ms: int
    last_ms: int
    """First and last timestamp in the period; 0 if `kept` is 0."""


class RequestDataset:
    """The requests of a directory whose timestamps lie in a period.

    Args:
        directory: contains ``*.parquet`` files at any depth (hive partitions are read in the order of their names).
        layout: the columns to read; the constructor checks every file against it.
        period: the requests to include; None: all.
        max_history: number of most recent history entries to keep.
        quarantine: stores bad rows; None: a bad row is an error.
        complete: adds columns that the files lack to the requests of a row group; thread-safe. None: nothing is added.
        names: the files to read, relative to the directory; None: all.
        strict: it is an error if every row of a row group has the same fault, also with a quarantine.
        check: raises BadRows for requests that may not be here; thread-safe. None: all may be.

    Raises:
        UserError: no files, an unreadable file, or columns that do not match the layout.
    """

    def __init__(
        self,
        directory: files.Location,
        layout: Layout,
        *,
        period: Period | None = None,
        max_history: int = 50,
        quarantine: Quarantine | None = None,
        complete: Callable[[RequestColumns], RequestColumns] | None = None,
        names: Sequence[str] | None = None,
        strict: bool = True,
        check: Callable[[RequestColumns, Place], None] | None = None,
    ) -> None:
        self.layout = layout
        self._check = check
        self._strict = strict
        self._complete = complete
        self.period = period
        self._max_history = max_history
        self._quarantine = quarantine
        self.row_groups: list[RowGroup] = []
        self._identities: dict[str, tuple[int, ...]] = {}
        self._histories: HistoryFolder | None = None
        digest = hashlib.sha256(repr(period).encode())
        for name in files.parquet_files(directory) if names is None else names:
            file = files.join(directory, name)
            footer = _footer(file)
            self.file_schema: pa.Schema = footer.schema
            if refers(footer.schema):
                self._histories = self._histories or HistoryFolder(directory)
                self.file_schema = self._histories.resolved(footer.schema)
            layout.check(self.file_schema, files.display_name(file))
            self._identities[file] = footer.identity
            for index in range(footer.metadata.num_row_groups):
                metadata = footer.metadata.row_group(index)
                group = _row_group(file, index, metadata.num_rows, period)
                self.row_groups.append(group)
                digest.update(f"{name} {index} {group.rows} {group.kept} {metadata.total_byte_size}\n".encode())
        if self._histories is not None:
            digest.update(self._histories.description.encode())
        self.fingerprint = digest.hexdigest()[:16]
        """Depends on the period and on the files' names, sizes and row groups, but not on their directory."""

    def __len__(self) -> int:
        """Requests in the period."""
        return sum(group.kept for group in self.row_groups)

    def check_time_order(self, reader: str = "data.shuffle=False") -> None:
        """Raises UserError if a row group begins before the previous row group; `reader` is what needs the order."""
        groups = [group for group in self.row_groups if group.kept]
        for before, group in pairwise(groups):
            if group.first_ms < before.first_ms:
                raise UserError(
                    f"{files.display_name(group.file)}, row group {group.index}: begins at {group.first_ms}, before "
                    f"the previous row group (file {files.display_name(before.file)}, at {before.first_ms}): "
                    f"{reader} reads files in the order of their names, which must be time order"
                )

    def read(self, group: RowGroup) -> RequestColumns:
        """The valid requests of a row group in the period; see `read_with_positions`."""
        return self.read_with_positions(group)[0]

    def read_with_positions(self, group: RowGroup) -> tuple[RequestColumns, Rows]:
        """The valid requests of a row group in the period. Thread-safe.

        Returns:
            (requests, position of each of the `kept` rows among them, -1 for a row in quarantine).

        Raises:
            UserError: the file is missing, damaged or changed since it was opened, or has bad values while there is
                no quarantine.
        """
        table = self._table(group, self.layout)
        rows = np.arange(group.rows)
        if group.kept < group.rows:
            rows = self._inside(table, group)
            table = table.take(rows)
        histories = self._histories
        columns, placed = decode_with_positions(
            table,
            self.layout,
            Place(file=files.display_name(group.file), row_group=group.index, rows=rows),
            max_history=self._max_history,
            quarantine=self._quarantine,
            strict=self._strict,
            check=self._check,
            resolve=None if histories is None else lambda part, place: histories.read(part, self.layout, place),
            stored=lambda: self.stored(group),
        )
        return columns if self._complete is None else self._complete(columns), placed

    def timestamps(self, group: RowGroup) -> Rows:
        """`timestamp_ms` of every row of a row group, -1 where it is null. Raises UserError as `read` does."""
        column = _time_column(group.file, group.index)
        return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)

    def stored(self, group: RowGroup) -> pa.Table:
        """A row group as stored, with all of its columns. Raises UserError as `read` does for files."""
        return self._table(group, None)

    def _table(self, group: RowGroup, layout: Layout | None) -> pa.Table:
        """A row group as stored, with the columns of a layout; None: all columns."""
        if _identity(group.file) != self._identities[group.file]:
            raise UserError(
                f"{files.display_name(group.file)} has been rewritten since this run opened it: datasets must not "
                "change during a run; add new files and keep the old ones, and start a new --run-dir"
            )
        footer, place = _footer(group.file), f"{files.display_name(group.file)}, row group {group.index}"
        leaves = leaf_indices(footer.schema, layout) if layout is not None else None
        try:
            # Threads cannot share an open file; opening one is cheap because its footer is already parsed.
            with pq.ParquetFile(
                files.open_file(group.file), metadata=footer.metadata, pre_buffer=files.is_remote(group.file)
            ) as parquet:
                table = read_row_group(parquet, group.index, leaves, threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{place}: cannot be read: {error}") from error
        if len(table) != group.rows:
            raise UserError(f"{place}: has {len(table)} rows, but its footer says {group.rows}")
        return table

    def _inside(self, table: pa.Table, group: RowGroup) -> Rows:
        """Positions of the rows in the period; a row without a timestamp is in no period."""
        assert self.period is not None
        column = table.column(TIME)
        if column.null_count:
            timeless = np.flatnonzero(column.is_null().to_numpy())
            place = Place(file=files.display_name(group.file), row_group=group.index)
            bad = BadRows(place, TIME, "an integer", timeless, np.full(len(timeless), "null"))
            set_aside(bad, place, timeless, lambda: self.stored(group), self._quarantine, of=group.rows)
        times = column.fill_null(self.period.start_ms - 1).to_numpy()
        return np.flatnonzero((times >= self.period.start_ms) & (times < self.period.end_ms))

    def empty(self) -> RequestColumns:
        """Zero requests, with the columns of `read`."""
        return self.read(self.row_groups[0]).take(np.zeros(0, np.int64))

    def read_all(self) -> RequestColumns | None:
        """All requests of the period, for small datasets such as the answers; None if there are none."""
        parts = [self.read(group) for group in self.row_groups if group.kept]
        return RequestColumns.concat(parts) if parts else None


def first_schema(directory: files.Location) -> pa.Schema:
    """Schema of a dataset's first file. Raises UserError if there are no files, or it cannot be read."""
    return _footer(parquet_files(directory)[0]).schema


def time_line(directory: files.Location) -> tuple[int, int]:
    """(first, last) request timestamp of a dataset in milliseconds, from the Parquet footers if they have it."""
    bounds = [
        _bounds(file, index)
        for file in parquet_files(directory)
        for index in range(_footer(file).metadata.num_row_groups)
        if _footer(file).metadata.row_group(index).num_rows
    ]
    if not bounds:
        raise UserError(f"{files.display_name(directory)} has no requests: build the dataset again")
    return min(first for first, _ in bounds), max(last for _, last in bounds)


def split(directory: files.Location, holdout: float) -> tuple[Period, Period]:
    """(training, held-out) periods: the last fraction `holdout` of the time line is held out.

    Raises UserError if the timestamps are not in milliseconds.
    """
    first, last = time_line(directory)
    problem = unit_problem(TIME, first, last)
    if problem is not None:
        raise UserError(f"{files.display_name(directory)}, column {problem}")
    cut = round(first + (1 - holdout) * (last - first)) if holdout else last + 1
    return Period(start_ms=first, end_ms=cut), Period(start_ms=cut, end_ms=last + 1)


def parquet_files(directory: files.Location) -> list[str]:
    """Locations of a dataset's files, in order. Raises UserError if there are none."""
    return [files.join(directory, name) for name in files.parquet_files(directory)]


@dataclass(frozen=True, kw_only=True)
class _Footer:
    """The parsed footer of a Parquet file."""

    identity: tuple[int, ...]
    """Changes when the file is rewritten."""
    metadata: pq.FileMetaData
    schema: pa.Schema


class _Footers:
    """Cache of the most recently used footers: all footers of a large dataset would fill the memory."""

    def __init__(self, row_groups: int) -> None:
        self._limit = row_groups
        self._kept: OrderedDict[str, _Footer] = OrderedDict()
        self._row_groups = 0
        self._lock = threading.Lock()

    def get(self, file: str) -> _Footer:
        """The current footer of a file. Raises UserError if it cannot be read."""
        identity = _identity(file)
        with self._lock:
            found = self._kept.get(file)
            if found is not None and found.identity == identity:
                self._kept.move_to_end(file)
                return found
        try:
            with pq.ParquetFile(files.open_file(file)) as parquet:
                made = _Footer(identity=identity, metadata=parquet.metadata, schema=parquet.schema_arrow)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{files.display_name(file)}: not a readable Parquet file: {error}") from error
        with self._lock:
            old = self._kept.pop(file, None)
            self._row_groups += made.metadata.num_row_groups - (old.metadata.num_row_groups if old is not None else 0)
            self._kept[file] = made
            while self._row_groups > self._limit and len(self._kept) > 1:
                self._row_groups -= self._kept.popitem(last=False)[1].metadata.num_row_groups
        return made


_FOOTERS = _Footers(row_groups=2_048)


def _footer(file: str) -> _Footer:
    return _FOOTERS.get(file)


def _identity(file: str) -> tuple[int, ...]:
    try:
        return files.identity(file)
    except OSError as error:
        raise UserError(f"{files.display_name(file)}: not a readable Parquet file: {error}") from error


def _bounds(file: str, row_group: int) -> tuple[int, int]:
    """Smallest and largest timestamp of a row group."""
    schema, metadata = _footer(file).schema, _footer(file).metadata.row_group(row_group)
    if TIME not in schema.names or not pa.types.is_integer(schema.field(TIME).type):
        found = f"of type {schema.field(TIME).type}" if TIME in schema.names else f"none among {schema.names}"
        raise UserError(f"{files.display_name(file)}: a dataset needs an integer column {TIME}; found {found}")
    for leaf in range(metadata.num_columns):
        column = metadata.column(leaf)
        if column.path_in_schema == TIME and column.statistics is not None and column.statistics.has_min_max:
            return int(column.statistics.min), int(column.statistics.max)
    times = _times(file, row_group)
    return int(times.min()), int(times.max())


def _times(file: str, row_group: int, *, lenient: bool = False) -> Array:
    """Timestamps of a row group; `lenient` leaves out nulls."""
    times = _time_column(file, row_group)
    if times.null_count and not lenient:
        rows = np.flatnonzero(times.is_null().to_numpy())
        place = Place(file=files.display_name(file), row_group=row_group)
        raise BadRows(place, TIME, "an integer", rows, np.full(len(rows), "null"))
    return times.drop_null().to_numpy()


def _time_column(file: str, row_group: int) -> pa.ChunkedArray:
    try:
        with pq.ParquetFile(files.open_file(file)) as parquet:
            return parquet.read_row_group(row_group, columns=[TIME]).column(TIME)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{files.display_name(file)}, row group {row_group}: cannot be read: {error}") from error


def _row_group(file: str, index: int, rows: int, period: Period | None) -> RowGroup:
    """Counts a row group's requests in a period."""
    if not rows:
        return RowGroup(file=file, index=index, rows=0, kept=0, first_ms=0, last_ms=0)
    first, last = _bounds(file, index)
    kept = rows
    if period is not None and not (period.start_ms <= first and last < period.end_ms):
        kept = 0
        if last >= period.start_ms and first < period.end_ms:
            # Reading the row group reports rows without a timestamp.
            times = _times(file, index, lenient=True)
            inside = times[(times >= period.start_ms) & (times < period.end_ms)]
            kept = len(inside)
            if kept:
                first, last = int(inside.min()), int(inside.max())
    if not kept:
        first = last = 0
    return RowGroup(file=file, index=index, rows=rows, kept=kept, first_ms=first, last_ms=last)
