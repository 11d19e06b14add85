"""Rows and messages that training cannot use, stored with the reason.

Every file in the folder has the rows of one row group or message that failed one check: six columns that describe the
fault, then the columns of the dataset. A message that cannot be decoded is a file with one row: `bad_topic`,
`bad_partition`, `bad_offset`, `bad_reason` and its bytes, `bad_message`. The file name is a function of the content, so
that ranks and epochs with the same bad rows write the same file. A rename publishes it atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import Rows
from easq_rec.disk_failures import LostWrites

LONGEST = 120
"""Characters of a file's or topic's name that the name of its bad rows begins with."""


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
        name = _name(place.file, place.row_group, about.encode())
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
        self._store(pa.table({**reasons, **kept}), name)

    def add_message(self, topic: str, partition: int, offset: int, reason: str, message: bytes) -> None:
        """Stores a message that cannot be decoded. Thread-safe."""
        name = _name(f"{topic}-{partition}", offset, b"\0".join((topic.encode(), reason.encode(), message)))
        if name in self._written:
            return
        values = {
            "bad_topic": [topic],
            "bad_partition": [partition],
            "bad_offset": [offset],
            "bad_reason": [reason],
            "bad_message": pa.array([message], pa.large_binary()),
        }
        self._store(pa.table(values), name)

    def _store(self, table: pa.Table, name: str) -> None:
        file = self.folder / name
        with contextlib.nullcontext() if self._lost is None else self._lost.tolerated("bad rows", file):
            self._write(table, name)
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
        """Number of stored rows, by all processes that share the folder; a message that cannot be decoded is one."""
        files = self.folder.glob("*.parquet") if self.folder.is_dir() else ()
        return sum(pq.read_metadata(file).num_rows for file in files)


def _name(source: str, number: int, about: bytes) -> str:
    """A file name for what came from `source`, unique by `about`; a topic may have a name as long as a file's."""
    stem = re.sub(r"[^\w.=-]+", "-", Path(source).name.removesuffix(".parquet"))
    return f"{stem[:LONGEST]}-{number:05d}-{hashlib.sha256(about).hexdigest()[:12]}.parquet"
