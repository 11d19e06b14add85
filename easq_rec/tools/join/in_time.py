"""The rows of several files in the order of time, with little of them in memory.

Processes of a server write at the same time, so their files overlap by some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from easq_rec.errors import UserError

TIME = "timestamp_ms"


def rows_in_time(names: Sequence[str], left_out: Mapping[str, NDArray[np.int64]]) -> Iterator[pa.Table]:
    """Tables of rows, each later than all before. Rows of the same time keep the order of the files.

    Args:
        left_out: numbers of the rows of a file that are not wanted, by its name.
    """
    begins = [pc.min(pq.read_table(name, columns=[TIME])[TIME]).as_py() for name in names]
    # A file without rows has no time.
    listed = sorted((begin, place) for place, begin in enumerate(begins) if begin is not None)
    held: pa.Table | None = None
    for position, (_, place) in enumerate(listed):
        table = pq.read_table(names[place])
        if names[place] in left_out:
            table = _without_rows(table, left_out[names[place]])
        try:
            held = table if held is None else pa.concat_tables([held, table])
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{names[place]}: its columns are not those of the files before it, because another model was served: "
                "join them apart"
            ) from error
        if position + 1 < len(listed):
            settled = pc.less(held[TIME], listed[position + 1][0])
            ready, held = held.filter(settled), held.filter(pc.invert(settled))
        else:
            ready, held = held, None
        if len(ready):
            yield _sorted(ready)


def _without_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    kept = np.ones(len(table), np.bool_)
    kept[rows] = False
    return table.filter(pa.array(kept))


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.argsort(table[TIME].to_numpy(), kind="stable")))
