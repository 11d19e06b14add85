"""A dataset that is read in the order of time and written again, row group by row group, with counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.data.bad_rows import Place
from easq_rec.data.columns import Rows
from easq_rec.data.counts import MINUTE_MS, by_bucket, take
from easq_rec.data.dataset import TIME, RequestDataset, RowGroup
from easq_rec.data.kinds import COUNT_FIELDS, Column
from easq_rec.data.layout import Layout
from easq_rec.data.published_counts import Impressions
from easq_rec.data.writer import open_writer
from easq_rec.tools.counts.candidates import Candidates, count_layout, counted_schema, read_candidates, with_counts
from easq_rec.tools.counts.publisher import Publisher


class Log:
    """One dataset of a data directory.

    Memory holds the row groups that span the current bucket of time.

    Args:
        location: folder of the dataset.
        out: folder to write: the same files, row groups, rows and columns, and the counts.
        counted: which counts its impressions enter: those of outcomes, those of answers, or None, if they are only
            looked up.

    Raises:
        UserError: files are missing, unreadable, not in the order of time, or without the columns that counts need.
    """

    def __init__(
        self, location: files.Location, out: Path, schema: FeatureSchema, *, counted: Impressions | None
    ) -> None:
        self._names = [count.name for count in schema.counts]
        self._width = schema.count_bucket_minutes * MINUTE_MS
        self._counted = counted
        timed = RequestDataset(location, Layout(schema=schema, columns=(Column(path=TIME, kind="id"),)))
        where = files.display_name(location)
        self._layout = count_layout(schema, timed.file_schema, where, counted=counted)
        self._dataset = RequestDataset(location, self._layout)
        self._dataset.check_time_order("data counts")
        self._ahead = deque(self._dataset.row_groups)
        self._held: deque[_Held] = deque()
        self._writer = _Writer(location, out, self._names)
        self.requests = len(self._dataset)
        self.last_ms = max((group.last_ms for group in self._dataset.row_groups), default=0)
        """Time of the last request."""
        self.candidates = 0
        """Candidates that have been read so far."""

    def next_ms(self) -> int | None:
        """Beginning of the first bucket with requests that have no counts yet; None: there are none."""
        starts = [held.next_ms for held in self._held if held.next_ms is not None]
        ahead = next((group.first_ms for group in self._ahead if group.rows), None)
        starts += [] if ahead is None else [ahead // self._width * self._width]
        return min(starts, default=None)

    def load(self, bucket_ms: int, publisher: Publisher) -> int:
        """Reads on until memory holds every request of the bucket that begins at `bucket_ms`.

        Returns the number of requests that were read.
        """
        read = 0
        while self._ahead and (not self._ahead[0].rows or self._ahead[0].first_ms < bucket_ms + self._width):
            read += self._read(self._ahead.popleft(), publisher)
        return read

    def fill(self, publisher: Publisher) -> None:
        """Looks up the candidates of the bucket that the publisher is at, and writes complete row groups."""
        for held in self._held:
            held.fill(publisher)
        while self._held and self._held[0].next_ms is None:
            done = self._held.popleft()
            self._writer.write(done.group.file, with_counts(done.table, done.columns))

    def close(self, publisher: Publisher) -> None:
        """Writes what is left, which has no requests."""
        while self._ahead:
            self._read(self._ahead.popleft(), publisher)
        self.fill(publisher)
        assert not self._held
        self._writer.close()

    def _read(self, group: RowGroup, publisher: Publisher) -> int:
        table = self._dataset.stored(group)
        place = Place(file=files.display_name(group.file), row_group=group.index)
        candidates = read_candidates(table, self._layout, place)
        if self._counted is not None and candidates.impressions is not None:
            publisher.add(candidates.impressions, self._counted)
        self.candidates += len(candidates.request_ms_N)
        self._held.append(_Held(group, table, candidates, self._names, self._width))
        return len(table)


class _Held:
    """A row group in memory, with the counts of those of its candidates whose time has come."""

    def __init__(
        self, group: RowGroup, table: pa.Table, candidates: Candidates, names: Sequence[str], width: int
    ) -> None:
        self.group = group
        self.table = table
        count = len(candidates.request_ms_N)
        self.columns: dict[str, npt.NDArray[np.float32]] = {
            name: np.zeros((count, len(COUNT_FIELDS)), np.float32) for name in names
        }
        """(N, 3) by name."""
        self._ids = candidates.ids
        self._open: deque[tuple[int, Rows]] = deque(by_bucket(candidates.request_ms_N, width))
        """(beginning of the bucket, its candidates) for the buckets to come."""

    @property
    def next_ms(self) -> int | None:
        """Beginning of the first bucket without counts; None: all have them."""
        return self._open[0][0] if self._open else None

    def fill(self, publisher: Publisher) -> None:
        if self.next_ms != publisher.now_ms:
            return
        _, rows = self._open.popleft()
        found = publisher.lookup(take(self._ids, rows), len(rows))
        for name, column in self.columns.items():
            column[rows] = found[name].column()


class _Writer:
    """Writes files with the names, the schemas and the row groups of a dataset's files, which come in order."""

    def __init__(self, location: files.Location, out: Path, names: Sequence[str]) -> None:
        self._out = out
        self._names = names
        self._ahead = deque((name, files.join(location, name)) for name in files.parquet_files(location))
        self._file = ""
        self._open: pq.ParquetWriter | None = None

    def write(self, file: str, table: pa.Table) -> None:
        """Appends a row group of a file."""
        while self._file != file:
            self._next()
        assert self._open is not None
        self._open.write_table(table, row_group_size=max(len(table), 1))

    def close(self) -> None:
        """Finishes the last file, and writes files without row groups."""
        while self._ahead:
            self._next()
        if self._open is not None:
            self._open.close()

    def _next(self) -> None:
        if self._open is not None:
            self._open.close()
        name, self._file = self._ahead.popleft()
        target = self._out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetFile(files.open_file(self._file)) as parquet:
            schema = parquet.schema_arrow
        self._open = open_writer(target, counted_schema(schema, self._names))
