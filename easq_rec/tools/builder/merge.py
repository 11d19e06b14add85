"""Merges the buckets' requests of a time slice into Parquet files, in the order of time.

A row group consists of one run of consecutive rows from each bucket, so memory holds about one batch per bucket and one
row group, for any number of requests.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.data.writer import open_writer, required
from easq_rec.tools.builder.config import Output
from easq_rec.tools.builder.fragment import HOUR_MS, FragmentReader

OPTIONAL = ("candidates.list.element.answer", "candidates.list.element.answered_at_ms")
"""Fields that may be null; all other fields of a built request are set."""


def merge(fragments: list[Path], folder: Path, number: int, schema: pa.Schema, output: Output) -> None:
    """Writes time slice `number` of a dataset to `folder/SLICE/FIRST_MS-NUMBER.parquet`: names sort in time order."""
    slice_ms = output.slice_h * HOUR_MS
    with ExitStack() as stack:
        runs = [stack.enter_context(FragmentReader(file, number, slice_ms)) for file in fragments]
        owner = np.repeat(np.arange(len(runs), dtype=np.uint16), [len(run.timestamp_ms) for run in runs])
        joined = np.concatenate([np.zeros(0, np.int64), *(run.timestamp_ms for run in runs)])
        order = np.argsort(joined, kind="stable")
        owner, joined = owner[order], joined[order]
        strict = required(schema, OPTIONAL)
        place = folder / slice_name(number * slice_ms, output)
        size = output.row_group * output.file_row_groups
        for part, first in enumerate(range(0, len(joined), size)):
            place.mkdir(parents=True, exist_ok=True)
            with open_writer(place / f"{joined[first]:013d}-{part:05d}.parquet", strict) as writer:
                last = min(first + size, len(joined))
                for at in range(first, last, output.row_group):
                    group = _take(runs, owner[at : min(at + output.row_group, last)])
                    writer.write_table(group.cast(strict), row_group_size=output.row_group)


def slice_name(start_ms: int, output: Output) -> str:
    """Folder of the slice that starts at this time (UTC); names sort in time order."""
    start = datetime.fromtimestamp(start_ms / 1_000, UTC)
    if not output.hive:
        return f"{start:%Y%m%dT%H}"
    return f"date={start:%Y-%m-%d}" + ("" if output.slice_h == 24 else f"/hour={start:%H}")


def _take(runs: list[FragmentReader], owner: NDArray[np.uint16]) -> pa.Table:
    """The next rows, each from the run that owns it."""
    counts = np.bincount(owner, minlength=len(runs))
    rows = pa.concat_tables([run.take(int(count)) for run, count in zip(runs, counts, strict=True) if count])
    if (counts > 0).sum() == 1:
        return rows.combine_chunks()
    # Concatenated runs are in the order of a stable sort by owner; this inverts that sort.
    place = np.empty(len(owner), np.int64)
    place[np.argsort(owner, kind="stable")] = np.arange(len(owner))
    return rows.combine_chunks().take(place)
