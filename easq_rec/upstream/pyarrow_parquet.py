"""Reading of single columns of a Parquet file. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_row_group(file: pq.ParquetFile, index: int, leaves: Sequence[int] | None, *, threads: bool = True) -> pa.Table:
    """Leaf columns of a row group.

    The public method takes names of columns, which do not reliably select one field of a nested list.

    Args:
        leaves: indices of the leaf columns in the file's schema; None: all.
        threads: whether columns are decoded in parallel.
    """
    return file.reader.read_row_group(index, column_indices=leaves, use_threads=threads)
