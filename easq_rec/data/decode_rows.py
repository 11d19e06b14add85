"""Tables to `RequestColumns`, with bad rows set aside: what files and messages have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from easq_rec.data.bad_rows import BadRows, Place
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.decode import decode
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.errors import UserError


def decode_with_positions(
    table: pa.Table,
    layout: Layout,
    place: Place,
    *,
    max_history: int,
    quarantine: Quarantine | None,
    strict: bool,
    check: Callable[[RequestColumns, Place], None] | None = None,
    resolve: Callable[[pa.Table, Place], pa.Table] | None = None,
    stored: Callable[[], pa.Table] | None = None,
) -> tuple[RequestColumns, Rows]:
    """The valid rows of a row group or message. Thread-safe.

    Args:
        table: has at least the columns of the layout, in types that it accepts.
        place: where the table comes from; its `rows` are the numbers of the table's rows there.
        max_history: number of most recent history entries to keep.
        quarantine: stores bad rows; None: a bad row is an error.
        strict: whether it is an error if every row has the same fault.
        check: raises BadRows for requests that may not be in this place; None: all may be.
        resolve: puts histories in place of references to them.
        stored: all rows at `place`, with all of their columns, for the quarantine; None: `table` has them.

    Returns:
        (requests, position of each row of the table among them, -1 for a row in quarantine).

    Raises:
        BadRows: bad values while there is no quarantine.
        UserError: see `strict`.
    """
    rows = np.arange(len(table)) if place.rows is None else place.rows
    whole, left, good = stored or (lambda: table), table, np.arange(len(table))
    while True:
        here = dataclasses.replace(place, rows=rows[good])
        try:
            columns = decode(left if resolve is None else resolve(left, here), layout, here, max_history=max_history)
            if check is not None:
                check(columns, here)
        except BadRows as bad:
            set_aside(bad, place, rows[good[bad.rows]], whole, quarantine, of=len(table) if strict else None)
            kept = np.delete(np.arange(len(good)), bad.rows)
            left, good = left.take(kept), good[kept]
            continue
        placed = np.full(len(table), -1)
        placed[good] = np.arange(len(good))
        return columns, placed


def set_aside(
    bad: BadRows,
    place: Place,
    rows: Rows,
    stored: Callable[[], pa.Table],
    quarantine: Quarantine | None,
    *,
    of: int | None = None,
) -> None:
    """Quarantines rows.

    Args:
        rows: their numbers at `place`.
        stored: all rows at `place`, with all of their columns.
        of: number of rows of which at least one must be good; None: all may be bad.

    Raises:
        BadRows: there is no quarantine.
        UserError: all `of` rows have this fault.
    """
    if quarantine is None:
        raise bad
    if len(rows) == of:
        raise UserError(f"{bad}; every row of the row group has this fault: repair the dataset") from bad
    quarantine.add(place, bad, rows, stored().take(rows))
