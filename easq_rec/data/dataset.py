"""A directory of time-ordered Parquet files: footers, time line, and row groups as columns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data.columns import Array, RequestColumns
from easq_rec.data.decode import Place, decode
from easq_rec.data.schema import Layout

TIME = "timestamp_ms"


@dataclass(frozen=True, kw_only=True)
class Period:
    """A half-open span of time, in milliseconds."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group, and how many of its requests lie in the dataset's period."""

    file: str
    index: int
    rows: int
    kept: int


class RequestDataset:
    """The requests of a directory whose timestamp lies in a period.

    Args:
        directory: holds ``*.parquet`` at any depth (hive partitions are read in the order of their names).
        layout: the columns to read; every file is checked against it at once.
        period: which requests belong; None: all.
        max_history: history entries kept, the most recent ones.

    Raises:
        ValueError: no files, an unreadable file, or columns that do not match the layout.
    """

    def __init__(self, directory: Path, layout: Layout, *, period: Period | None = None, max_history: int = 50) -> None:
        self.layout = layout
        self.period = period
        self._max_history = max_history
        self.row_groups: list[RowGroup] = []
        for file in _files(directory):
            parquet = _open(file)
            layout.check(parquet.schema_arrow, file)
            self.file_schema: pa.Schema = parquet.schema_arrow
            for index in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(index).num_rows
                self.row_groups.append(
                    RowGroup(file=file, index=index, rows=rows, kept=_kept(file, index, rows, period))
                )

    def __len__(self) -> int:
        """Requests in the period."""
        return sum(group.kept for group in self.row_groups)

    def read(self, group: RowGroup) -> RequestColumns:
        """The requests of a row group that lie in the period."""
        parquet = _open(group.file)
        try:
            table = _read(parquet, group.index, self.layout.leaf_indices(parquet.schema_arrow))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{group.file}, row group {group.index}: cannot be read: {error}") from error
        if len(table) != group.rows:
            raise ValueError(f"{group.file}, row group {group.index}: has {len(table)} rows, had {group.rows} at first")
        place = Place(file=group.file, row_group=group.index)
        columns = decode(table, self.layout, place, max_history=self._max_history)
        if group.kept == group.rows:
            return columns
        assert self.period is not None
        inside = (columns.timestamp_ms >= self.period.start_ms) & (columns.timestamp_ms < self.period.end_ms)
        return columns.take(np.flatnonzero(inside))

    def read_all(self) -> RequestColumns | None:
        """Every request of the period at once, for small datasets such as the answers; None: there are none."""
        parts = [self.read(group) for group in self.row_groups if group.kept]
        return RequestColumns.concat(parts) if parts else None


def time_line(directory: Path) -> tuple[int, int]:
    """(first, last) request timestamp of a dataset, in milliseconds, from the Parquet footers where they have it."""
    bounds = [
        _bounds(file, index)
        for file in _files(directory)
        for index in range(_open(file).num_row_groups)
        if _open(file).metadata.row_group(index).num_rows
    ]
    if not bounds:
        raise ValueError(f"{directory} holds no requests: build the dataset again")
    return min(first for first, _ in bounds), max(last for _, last in bounds)


def split(directory: Path, holdout: float) -> tuple[Period, Period]:
    """(training, held-out) periods: the last share `holdout` of the time line is held out."""
    first, last = time_line(directory)
    cut = round(first + (1 - holdout) * (last - first)) if holdout else last + 1
    return Period(start_ms=first, end_ms=cut), Period(start_ms=cut, end_ms=last + 1)


def _files(directory: Path) -> list[str]:
    files = sorted(str(file) for file in directory.rglob("*.parquet") if _committed(file, directory) and file.is_file())
    if not files:
        raise ValueError(f"{directory} holds no Parquet files: --data names the folder with requests/ and answers/")
    return files


def _committed(file: Path, directory: Path) -> bool:
    """Spark and its like write below `_temporary/` and hidden names until they are done."""
    return not any(part.startswith(("_", ".")) for part in file.relative_to(directory).parts)


def _open(file: str) -> pq.ParquetFile:
    """The open file, whose footer is parsed once; a file that was written again is opened again."""
    try:
        status = os.stat(file)
        return _open_once(file, status.st_mtime_ns, status.st_size, status.st_ino)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file}: not a readable Parquet file: {error}") from error


@lru_cache(maxsize=256)
def _open_once(file: str, *identity: int) -> pq.ParquetFile:
    return pq.ParquetFile(file)


def _read(parquet: pq.ParquetFile, row_group: int, leaves: list[int]) -> pa.Table:
    # The reader below ParquetFile takes leaf indices; by name, one field of a nested list cannot be asked for reliably.
    return parquet.reader.read_row_group(row_group, column_indices=leaves, use_threads=False)


def _bounds(file: str, row_group: int) -> tuple[int, int]:
    """Smallest and largest timestamp of a row group."""
    schema, metadata = _open(file).schema_arrow, _open(file).metadata.row_group(row_group)
    if TIME not in schema.names or not pa.types.is_integer(schema.field(TIME).type):
        found = f"of type {schema.field(TIME).type}" if TIME in schema.names else f"none among {schema.names}"
        raise ValueError(f"{file}: a dataset needs an integer column {TIME}; found {found}")
    for leaf in range(metadata.num_columns):
        column = metadata.column(leaf)
        if column.path_in_schema == TIME and column.statistics is not None and column.statistics.has_min_max:
            return int(column.statistics.min), int(column.statistics.max)
    times = _times(file, row_group)
    return int(times.min()), int(times.max())


def _times(file: str, row_group: int) -> Array:
    try:
        times = _open(file).read_row_group(row_group, columns=[TIME]).column(TIME)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file}, row group {row_group}: cannot be read: {error}") from error
    if times.null_count:
        row = times.is_null().index(True).as_py()
        raise Place(file=file, row_group=row_group).error(row, TIME, "null", "an integer")
    return times.to_numpy()


def _kept(file: str, row_group: int, rows: int, period: Period | None) -> int:
    if period is None or rows == 0:
        return rows
    first, last = _bounds(file, row_group)
    if period.start_ms <= first and last < period.end_ms:
        return rows
    if last < period.start_ms or first >= period.end_ms:
        return 0
    times = _times(file, row_group)
    return int(((times >= period.start_ms) & (times < period.end_ms)).sum())
