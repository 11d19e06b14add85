"""Third stage: merges the buckets' time-ordered requests into time-ordered Parquet files.

A row group consists of one run of consecutive rows from each bucket, so memory holds about one batch per bucket and one
row group, for any number of requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.data.writer import open_writer, required
from easq_rec.tools.builder.config import Output
from easq_rec.tools.builder.scatter import Partition
from easq_rec.tools.builder.versions import Int

HOUR_MS = 3_600_000
FILE_ROW_GROUPS = 64
OPTIONAL = ("candidates.list.element.answer", "candidates.list.element.answered_at_ms")
"""Fields that may be null; all other fields of a built request are set."""


def write_fragment(file: Path, schema: pa.Schema, timestamp_ms: Int, batches: Iterable[pa.RecordBatch]) -> None:
    """Writes one bucket's rows of a dataset, oldest first, as an Arrow stream, and the rows' times to a second file."""
    np.save(_times(file), timestamp_ms)
    with pa.ipc.new_stream(str(file), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def merge(fragments: list[Path], folder: Path, partition: Partition, schema: pa.Schema, output: Output) -> None:
    """Writes `folder/SLICE/FIRST_MS-PART-NUMBER.parquet`: names sort in time order, also across partitions,
    and no file crosses the bounds of a slice."""
    times = [np.load(_times(file)) for file in fragments]
    owner = np.repeat(np.arange(len(fragments), dtype=np.uint16), [len(t) for t in times])
    joined = np.concatenate([np.zeros(0, np.int64), *times])
    order = np.argsort(joined, kind="stable")
    owner, joined = owner[order], joined[order]
    slices = joined // (output.slice_h * HOUR_MS)
    bounds = np.flatnonzero(np.append(True, slices[1:] != slices[:-1])[: len(slices)]).tolist()
    size = output.row_group * (output.file_row_groups or (FILE_ROW_GROUPS if partition.of == 1 else 1))
    strict = required(schema, OPTIONAL)
    with ExitStack() as stack:
        runs = [stack.enter_context(_Run(file)) for file in fragments]
        for start, end in pairwise([*bounds, len(slices)]):
            place = folder / slice_name(int(slices[start]) * output.slice_h * HOUR_MS, output)
            place.mkdir(parents=True)
            for number, first in enumerate(range(start, end, size)):
                file = place / f"{joined[first]:013d}-{partition.name}-{number:05d}.parquet"
                last = min(first + size, end)
                with open_writer(file, strict) as writer:
                    for at in range(first, last, output.row_group):
                        group = _take(runs, owner[at : min(at + output.row_group, last)])
                        writer.write_table(group.cast(strict), row_group_size=output.row_group)


def slice_name(start_ms: int, output: Output) -> str:
    """Folder of the slice that starts at this time (UTC); names sort in time order."""
    start = datetime.fromtimestamp(start_ms / 1_000, UTC)
    if not output.hive:
        return f"{start:%Y%m%dT%H}"
    return f"date={start:%Y-%m-%d}" + ("" if output.slice_h == 24 else f"/hour={start:%H}")


class _Run:
    """Reads the rows of a fragment in order."""

    def __init__(self, file: Path) -> None:
        # Read, not memory-mapped: mapped pages would stay resident in this process.
        self._source = pa.OSFile(str(file))
        self._reader = pa.ipc.open_stream(self._source)
        self._held: pa.Table = self._reader.schema.empty_table()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def take(self, count: int) -> pa.Table:
        parts, missing = [self._held], count - len(self._held)
        while missing > 0:
            batch = pa.Table.from_batches([self._reader.read_next_batch()])
            parts.append(batch)
            missing -= len(batch)
        rows = pa.concat_tables(parts)
        self._held = rows.slice(count)
        return rows.slice(0, count)


def _take(runs: list[_Run], owner: NDArray[np.uint16]) -> pa.Table:
    """The next rows, each from the run that owns it."""
    counts = np.bincount(owner, minlength=len(runs))
    rows = pa.concat_tables([run.take(int(count)) for run, count in zip(runs, counts, strict=True) if count])
    if (counts > 0).sum() == 1:
        return rows.combine_chunks()
    # Concatenated runs are in the order of a stable sort by owner; this inverts that sort.
    place = np.empty(len(owner), np.int64)
    place[np.argsort(owner, kind="stable")] = np.arange(len(owner))
    return rows.combine_chunks().take(place)


def _times(fragment: Path) -> Path:
    return fragment.with_suffix(".npy")
