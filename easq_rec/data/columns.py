"""Requests as columns: struct-of-arrays in numpy, gathered and concatenated without Python per row.

Legend: n requests, m list entries of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A column of lists: `offsets` (n + 1,) into child columns of m entries; a child may be ragged itself."""

    offsets: Rows
    children: Mapping[str, Array | Ragged]

    @property
    def lengths(self) -> Rows:
        """Entries of each list, (n,)."""
        # Much less than np.diff for the short lists of a batch.
        return self.offsets[1:] - self.offsets[:-1]

    def entries(self, rows: Rows) -> Rows:
        """Positions in the child columns of the lists `rows`, concatenated."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        starts = np.cumsum(lengths) - lengths
        entries = np.repeat(self.offsets[rows] - starts, lengths)
        entries += np.arange(len(entries))
        return entries

    def take(self, rows: Rows) -> Ragged:
        """The lists `rows`, in that order."""
        entries = self.entries(rows)
        return Ragged(
            offsets=_offsets(self.offsets[rows + 1] - self.offsets[rows]),
            children={name: _take(child, entries) for name, child in self.children.items()},
        )

    def last(self, limit: int) -> Ragged:
        """Every list shortened to its last `limit` entries."""
        lengths = self.lengths
        if not len(lengths) or lengths.max() <= limit:
            return self
        kept = np.minimum(lengths, limit)
        starts = np.cumsum(kept) - kept
        entries = np.repeat(self.offsets[1:] - kept - starts, kept) + np.arange(kept.sum(), dtype=np.int64)
        return Ragged(
            offsets=_offsets(kept), children={name: _take(child, entries) for name, child in self.children.items()}
        )

    def keep(self, entries: Rows) -> Ragged:
        """The same lists with the entries at these ascending positions alone."""
        return Ragged(
            offsets=np.searchsorted(entries, self.offsets).astype(np.int64, copy=False),
            children={name: _take(child, entries) for name, child in self.children.items()},
        )

    def blank(self, entries: int) -> Ragged:
        """One list of so many zeros, with the same columns; lists inside it are empty."""
        children: dict[str, Array | Ragged] = {}
        for name, child in self.children.items():
            if isinstance(child, Ragged):
                nothing = {inner: np.zeros(0, child.column(inner).dtype) for inner in child.children}
                children[name] = Ragged(offsets=np.zeros(entries + 1, np.int64), children=nothing)
            else:
                children[name] = np.zeros(entries, child.dtype)
        return Ragged(offsets=np.array([0, entries]), children=children)

    def column(self, name: str) -> Array:
        """A flat child column, (m,)."""
        child = self.children[name]
        assert not isinstance(child, Ragged), name
        return child

    def lists(self, name: str) -> Ragged:
        """A ragged child column."""
        child = self.children[name]
        assert isinstance(child, Ragged), name
        return child


@dataclass(frozen=True, kw_only=True)
class RequestColumns:
    """n requests: scalars by name, and the two lists of the data contract."""

    scalars: dict[str, Array]
    """Always request_id, user_id and timestamp_ms; then the user features of kind id."""
    lists: dict[str, Ragged]
    """User features of kind id_list; each has the single child `values`."""
    history: Ragged
    candidates: Ragged

    def __len__(self) -> int:
        return len(self.scalars["request_id"])

    @property
    def timestamp_ms(self) -> Array:
        return self.scalars["timestamp_ms"]

    def take(self, rows: Rows) -> RequestColumns:
        """The requests `rows`, in that order."""
        return RequestColumns(
            scalars={name: column.take(rows) for name, column in self.scalars.items()},
            lists={name: column.take(rows) for name, column in self.lists.items()},
            history=self.history.take(rows),
            candidates=self.candidates.take(rows),
        )

    def keep_candidates(self, entries: Rows) -> RequestColumns:
        """The same requests with the candidates at these ascending positions alone."""
        return dataclasses.replace(self, candidates=self.candidates.keep(entries))

    def blank(self) -> RequestColumns:
        """One request with the same columns that says nothing: no history, and one candidate of zeros."""
        return RequestColumns(
            scalars={name: np.zeros(1, column.dtype) for name, column in self.scalars.items()},
            lists={name: column.blank(0) for name, column in self.lists.items()},
            history=self.history.blank(0),
            candidates=self.candidates.blank(1),
        )

    @staticmethod
    def concat(parts: list[RequestColumns]) -> RequestColumns:
        """The requests of all parts, which have the same columns, one after the other."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return RequestColumns(
            scalars={name: np.concatenate([part.scalars[name] for part in parts]) for name in first.scalars},
            lists={name: _concat([part.lists[name] for part in parts]) for name in first.lists},
            history=_concat([part.history for part in parts]),
            candidates=_concat([part.candidates for part in parts]),
        )


def _offsets(lengths: Rows) -> Rows:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take(column: Array | Ragged, entries: Rows) -> Array | Ragged:
    # For arrays as well: ndarray.take gathers nearly twice as fast as an index does.
    return column.take(entries)


def _concat(parts: list[Ragged]) -> Ragged:
    children: dict[str, Array | Ragged] = {}
    for name, child in parts[0].children.items():
        if isinstance(child, Ragged):
            children[name] = _concat([part.lists(name) for part in parts])
        else:
            children[name] = np.concatenate([part.column(name) for part in parts])
    return Ragged(offsets=_offsets(np.concatenate([part.lengths for part in parts])), children=children)
