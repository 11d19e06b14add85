"""Parquet files read with pyarrow, file by file, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data import files
from easq_rec.errors import UserError


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """Opens a file. Raises UserError that names it if it cannot be read, also for errors within the block."""
    try:
        with pq.ParquetFile(files.open_file(file), pre_buffer=False) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{files.display_name(file)}: not a readable Parquet file: {error}") from error


def find_damage(paths: list[str]) -> None:
    """Reads all row groups, one at a time. Raises UserError that names the first one that is damaged."""
    for file in paths:
        with open_parquet(file) as parquet:
            for index in range(parquet.num_row_groups):
                try:
                    parquet.read_row_group(index)
                except (pa.ArrowException, OSError) as error:
                    raise UserError(
                        f"{files.display_name(file)}, row group {index}: cannot be read: {error}"
                    ) from error
