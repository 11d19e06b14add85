"""The cleaned rows of a split, by bucket of users: one Arrow file, of which a bucket's rows are read by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

NAME = "rows.arrow"
BUCKET = "bucket"
"""Column with the bucket of a row, which is not stored."""


class BlockWriter:
    """Writes the rows of one split.

    Args:
        folder: of the split.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._writer: pa.RecordBatchFileWriter | None = None
        self._buckets: list[int] = []

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
            np.save(_index(self._path), np.array(self._buckets, np.int64))

    def add(self, rows: pa.Table) -> None:
        """Appends rows in their order, each to its bucket. The first call may have no rows; it sets the columns."""
        bucket = rows[BUCKET].to_numpy()
        rows = rows.drop_columns([BUCKET])
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._path), rows.schema)
        if len(bucket) and bucket.min() < bucket.max():
            order = np.argsort(bucket, kind="stable")
            bucket, rows = bucket[order], rows.take(order)
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1])[: len(bucket)])
        for begin, end in pairwise([*starts.tolist(), len(bucket)]):
            # One batch: readers count the batches.
            for batch in rows.slice(begin, end - begin).combine_chunks().to_batches():
                self._writer.write_batch(batch)
                self._buckets.append(int(bucket[begin]))


def read_block(splits: Iterable[Path], bucket: int | None = None) -> pa.Table | None:
    """The rows of a bucket in the folders of some splits, in this order; None: there are no splits.

    Args:
        bucket: None: the rows of all buckets.
    """
    parts: list[pa.Table] = []
    for folder in splits:
        path = folder / NAME
        wanted = np.load(_index(path))
        places = np.arange(len(wanted)) if bucket is None else np.flatnonzero(wanted == bucket)
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            batches = [reader.get_batch(int(place)) for place in places]
            parts.append(pa.Table.from_batches(batches, reader.schema))
    return pa.concat_tables(parts).combine_chunks() if parts else None


def _index(path: Path) -> Path:
    return path.with_suffix(".npy")
