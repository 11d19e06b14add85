"""Rejected rows: their table, the reason, and their content."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

SCHEMA = pa.schema([("table", pa.string()), ("reason", pa.string()), ("row", pa.string()), ("place", pa.string())])
"""`row` is JSON: the log's cells of a row that could not be read, else the builder's columns. `place` is where a
row lies that could not be read: its file, and the line or the row (from 0) where they are known."""


class QuarantineFile:
    """Writes a Parquet file (only if there are rows) and counts its rows.

    Args:
        path: file to write.
        counts: receives `TABLE.quarantined.REASON`.
    """

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        self._path = path
        self._counts = counts
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> QuarantineFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, table: str, reason: pa.Array | str, rows: pa.Array, places: pa.Array | None = None) -> None:
        """Adds rows as JSON texts, with one reason for all or one per row, and where they lie, if that is known."""
        if not len(rows):
            return
        reasons = pa.array([reason] * len(rows), pa.string()) if isinstance(reason, str) else reason.cast(pa.string())
        for entry in pc.value_counts(reasons).to_pylist():
            self._counts[f"{table}.quarantined.{entry['values']}"] += entry["counts"]
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")
        names = pa.array([table] * len(rows), pa.string())
        places = pa.nulls(len(rows), pa.string()) if places is None else places.cast(pa.string())
        self._writer.write_table(pa.table([names, reasons, rows.cast(pa.string()), places], schema=SCHEMA))


def as_json(table: pa.Table, names: tuple[str, ...], rows: NDArray[np.int64]) -> pa.Array:
    """JSON texts of some rows of integer columns."""
    pieces: list[pa.Array | str] = []
    for number, name in enumerate(name for name in names if name in table.column_names):
        pieces += [f'{", " if number else "{"}"{name}": ', table[name].take(rows).combine_chunks().cast(pa.string())]
    return pc.binary_join_element_wise(*pieces, "}", "")
