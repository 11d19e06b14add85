"""The requests of one bucket of users in the order of time: an Arrow file, of which one time slice can be read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from easq_rec.tools.builder.versions import Int

HOUR_MS = 3_600_000


MakeBatch = Callable[[int, int], pa.RecordBatch]
"""Makes the rows from a first one to before a second one."""


def write_fragment(file: Path, schema: pa.Schema, timestamp_ms: Int, slice_ms: int, size: int, make: MakeBatch) -> None:
    """Writes the rows of a bucket, oldest first.

    Args:
        timestamp_ms: times of all rows.
        slice_ms: length of a time slice; a batch has rows of one slice only.
        size: rows of a batch, at most.
    """
    slices = timestamp_ms // slice_ms
    firsts = np.flatnonzero(np.append(True, slices[1:] != slices[:-1])[: len(slices)]).tolist()
    bounds = pairwise([*firsts, len(slices)])
    starts = [begin for first, end in bounds for begin in range(first, end, size)]
    np.savez(_index(file), timestamp_ms=timestamp_ms, starts=np.array(starts, np.int64))
    with pa.ipc.new_file(str(file), schema) as writer:
        for begin, end in pairwise([*starts, len(slices)]):
            writer.write_batch(make(begin, end))


def slices_of(file: Path, slice_ms: int) -> list[int]:
    """Numbers of the time slices in which a fragment has rows."""
    with np.load(_index(file)) as index:
        return np.unique(index["timestamp_ms"] // slice_ms).tolist()


def fragment_parts(file: Path, slice_ms: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(number of a time slice, its rows, their index) of all slices of a fragment, as contents of fragments."""
    with np.load(_index(file)) as index:
        times, starts = index["timestamp_ms"], index["starts"]
    with pa.OSFile(str(file)) as source, pa.ipc.open_file(source) as reader:
        for number in slices_of(file, slice_ms):
            first, last = np.searchsorted(times, [number * slice_ms, (number + 1) * slice_ms])
            batches = range(*np.searchsorted(starts, [first, last]).tolist())
            rows, own = pa.BufferOutputStream(), io.BytesIO()
            with pa.ipc.new_file(rows, reader.schema) as writer:
                for batch in batches:
                    writer.write_batch(reader.get_batch(batch))
            np.savez(own, timestamp_ms=times[first:last], starts=starts[batches.start : batches.stop] - first)
            yield number, rows.getvalue().to_pybytes(), own.getvalue()


class FragmentReader:
    """Reads the rows of a fragment in one time slice, in order.

    Args:
        number: that of the slice.
    """

    def __init__(self, file: Path, number: int, slice_ms: int) -> None:
        with np.load(_index(file)) as index:
            times, starts = index["timestamp_ms"], index["starts"]
        first, last = np.searchsorted(times, [number * slice_ms, (number + 1) * slice_ms])
        self.timestamp_ms: Int = times[first:last]
        self._batches = range(*np.searchsorted(starts, [first, last]).tolist())
        # Read, not memory-mapped: mapped pages would stay resident in this process.
        self._file = pa.OSFile(str(file)) if len(self._batches) else None
        self._reader = pa.ipc.open_file(self._file) if self._file is not None else None
        self._next = self._batches.start
        self._held: pa.Table | None = None

    def __enter__(self) -> FragmentReader:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, count: int) -> pa.Table:
        """The next rows."""
        assert self._reader is not None
        parts = [] if self._held is None else [self._held]
        missing = count - sum(map(len, parts))
        while missing > 0:
            batch = pa.Table.from_batches([self._reader.get_batch(self._next)])
            self._next += 1
            parts.append(batch)
            missing -= len(batch)
        rows = pa.concat_tables(parts)
        self._held = rows.slice(count)
        return rows.slice(0, count)


def _index(file: Path) -> Path:
    return file.with_suffix(".npz")
