"""Rows that training cannot use, stored with the reason.

Every file in the folder has the rows of one row group that failed one check: six columns that describe the fault, then
the columns of the dataset. The file name is a function of the content, so that ranks and epochs with the same bad rows
write the same file. A rename publishes it atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import Rows
from easq_rec.disk_failures import LostWrites


class Quarantine:
    """Stores bad rows.

    Args:
        folder: created with the first bad row.
        lost: counts files that a failing disk refuses; their rows are set aside all the same. None: such a failure is
            an error.
    """

    def __init__(self, folder: Path, *, lost: LostWrites | None = None) -> None:
        self.folder = folder
        self._lost = lost
        self._written: set[str] = set()

    def add(self, place: Place, bad: BadRows, rows: Rows, table: pa.Table) -> None:
        """Stores bad rows of a row group. Thread-safe.

        Args:
            rows: their positions in the row group; the positions in `bad` refer to the decoded table.
            table: the rows, with all columns of the file.
        """
        about = f"{place.file} {place.row_group} {bad.column} {bad.expected} {rows.tolist()}"
        digest = hashlib.sha256(about.encode()).hexdigest()[:12]
        name = f"{Path(place.file).stem}-{place.row_group:05d}-{digest}.parquet"
        if name in self._written:
            return
        count = len(rows)
        reasons = {
            "bad_file": np.full(count, place.file),
            "bad_row_group": np.full(count, place.row_group),
            "bad_row": rows,
            "bad_column": np.full(count, bad.column),
            "bad_value": np.array(bad.values),
            "bad_expected": np.full(count, bad.expected),
        }
        kept = {field: table.column(field) for field in table.schema.names if field not in reasons}
        file = self.folder / name
        with contextlib.nullcontext() if self._lost is None else self._lost.tolerated("bad rows", file):
            self._write(pa.table({**reasons, **kept}), name)
        self._written.add(name)

    def _write(self, table: pa.Table, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        try:
            pq.write_table(table, partial, compression="zstd")
            os.rename(partial, self.folder / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def count(self) -> int:
        """Number of stored rows, by all processes that share the folder."""
        files = self.folder.glob("*.parquet") if self.folder.is_dir() else ()
        return sum(pq.read_metadata(file).num_rows for file in files)
