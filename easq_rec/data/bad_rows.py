"""Rows that the reader refuses, and the checks of whole columns that find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from easq_rec.data.columns import Array, Rows
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a table was read from, for error messages."""

    file: str
    """A file, or the partition of a topic."""
    row_group: int
    """Number of a row group, or offset of a message."""
    rows: Rows | None = None
    """Numbers of the table's rows in the row group or message; None: it is the whole one."""
    unit: Literal["row group", "offset"] = "row group"
    """What `row_group` counts."""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.row_group}"


class BadRows(UserError):
    """Some rows of a table fail one check. The message is about the first of them."""

    def __init__(self, place: Place, column: str, expected: str, rows: Rows, values: Array) -> None:
        self.column = column
        self.expected = expected
        self.rows, first = np.unique(rows, return_index=True)
        """Numbers of the bad rows in the table, ascending."""
        self.values = [str(value) for value in values[first]]
        """The first bad value of each."""
        row = self.rows[0] if place.rows is None else place.rows[self.rows[0]]
        super().__init__(f"{place}, row {row}, column {column}: found {self.values[0]}, expected {expected}")


def check(bad: Array, values: Array, path: str, place: Place, owner: Rows | None, expected: str) -> None:
    """Raises BadRows if any entry of a column is bad.

    Args:
        bad: whether each entry is bad.
        values: what the message shows, for each entry.
        owner: row of each entry; None: entry i is that of row i.
    """
    if bad.any():
        entries = np.flatnonzero(bad)
        rows = entries if owner is None else owner[entries]
        raise BadRows(place, path, expected, rows, values[entries])


def no_nulls(array: pa.Array, path: str, place: Place, expected: str, owner: Rows | None = None) -> None:
    """Raises BadRows if a column has nulls."""
    if array.null_count:
        check(nulls(array), np.full(len(array), "null"), path, place, owner, expected)


def nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Which entries are null."""
    return array.is_null().to_numpy(zero_copy_only=False)
