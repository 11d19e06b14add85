"""Requests as columns: struct-of-arrays in numpy, gathered and concatenated without a Python loop over rows.

Legend: n requests, m list entries in total.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A column of lists: `offsets` (n + 1,) into child columns of m entries; a child may be ragged itself.

    The children that are arrays have shape (m,), or (m, k) with k numbers for each entry.
    """

    offsets: Rows
    children: Mapping[str, Array | Ragged]

    @property
    def lengths(self) -> Rows:
        """Entries of each list, (n,)."""
        # Much faster than np.diff for the short lists of a batch.
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def owners(self) -> Rows:
        """The list of each entry, (m,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def take(self, rows: Rows) -> Ragged:
        """The lists `rows`, in that order."""
        # Copying runs reads the lengths of all lists, which pays off if many of the lists are taken.
        return self._take_entries(rows) if 4 * len(rows) < len(self.offsets) else self._take_runs(rows)

    def _take_entries(self, rows: Rows) -> Ragged:
        """`take` by the positions of all entries."""
        entries = entries_of(self.offsets, rows)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        children = {name: _take(child, entries) for name, child in self.children.items()}
        return Ragged(offsets=offsets_of(lengths), children=children)

    def _take_runs(self, rows: Rows) -> Ragged:
        """`take` that copies whole lists: several times as fast as by entry."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        children = {name: _runs(child, self.offsets, rows) for name, child in self.children.items()}
        return Ragged(offsets=offsets_of(lengths), children=children)

    def slice(self, begin: int, end: int) -> Ragged:
        """The lists `begin` to `end` (exclusive); the children are views."""
        first, last = int(self.offsets[begin]), int(self.offsets[end])
        children: dict[str, Array | Ragged] = {
            name: child.slice(first, last) if isinstance(child, Ragged) else child[first:last]
            for name, child in self.children.items()
        }
        return Ragged(offsets=self.offsets[begin : end + 1] - first, children=children)

    def last(self, limit: int) -> Ragged:
        """Every list cut to its last `limit` entries."""
        lengths = self.lengths
        if not len(lengths) or lengths.max() <= limit:
            return self
        kept = np.minimum(lengths, limit)
        starts = np.cumsum(kept) - kept
        entries = np.repeat(self.offsets[1:] - kept - starts, kept) + np.arange(kept.sum(), dtype=np.int64)
        return Ragged(
            offsets=offsets_of(kept), children={name: _take(child, entries) for name, child in self.children.items()}
        )

    def keep(self, entries: Rows) -> Ragged:
        """The same lists with only the entries at these ascending positions."""
        return Ragged(
            offsets=np.searchsorted(entries, self.offsets).astype(np.int64, copy=False),
            children={name: _take(child, entries) for name, child in self.children.items()},
        )

    def blank(self, entries: int) -> Ragged:
        """One list of `entries` zeros with the same columns; nested lists are empty."""
        children: dict[str, Array | Ragged] = {}
        for name, child in self.children.items():
            if isinstance(child, Ragged):
                nothing = {inner: np.zeros(0, child.column(inner).dtype) for inner in child.children}
                children[name] = Ragged(offsets=np.zeros(entries + 1, np.int64), children=nothing)
            else:
                children[name] = _zeros(child, entries)
        return Ragged(offsets=np.array([0, entries]), children=children)

    def column(self, name: str) -> Array:
        """A child column that is an array."""
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
    """n requests: scalars by name, and the history and candidate lists of the data contract."""

    scalars: dict[str, Array]
    """Always request_id, user_id and timestamp_ms; then the user features that are arrays."""
    lists: dict[str, Ragged]
    """User features that are lists."""
    history: Ragged
    candidates: Ragged

    def __len__(self) -> int:
        return len(self.scalars["request_id"])

    def column(self, name: str) -> Array | Ragged:
        """A scalar or a list by its name."""
        return self.lists[name] if name in self.lists else self.scalars[name]

    @property
    def timestamp_ms(self) -> Array:
        return self.scalars["timestamp_ms"]

    def take(self, rows: Rows) -> Self:
        """The requests `rows`, in that order."""
        return type(self)(
            scalars={name: column.take(rows, axis=0) for name, column in self.scalars.items()},
            lists={name: column.take(rows) for name, column in self.lists.items()},
            history=self.history.take(rows),
            candidates=self.candidates.take(rows),
        )

    def slice(self, begin: int, end: int) -> Self:
        """The requests `begin` to `end` (exclusive); all columns are views."""
        return type(self)(
            scalars={name: column[begin:end] for name, column in self.scalars.items()},
            lists={name: column.slice(begin, end) for name, column in self.lists.items()},
            history=self.history.slice(begin, end),
            candidates=self.candidates.slice(begin, end),
        )

    def keep_candidates(self, entries: Rows) -> Self:
        """The same requests with only the candidates at these ascending positions."""
        return dataclasses.replace(self, candidates=self.candidates.keep(entries))

    def blank(self) -> Self:
        """One empty request with the same columns: no history, and one candidate of zeros."""
        return type(self)(
            scalars={name: _zeros(column, 1) for name, column in self.scalars.items()},
            lists={name: column.blank(0) for name, column in self.lists.items()},
            history=self.history.blank(0),
            candidates=self.candidates.blank(1),
        )

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Concatenates parts, which have the same columns."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return cls(
            scalars={name: np.concatenate([part.scalars[name] for part in parts]) for name in first.scalars},
            lists={name: _concat([part.lists[name] for part in parts]) for name in first.lists},
            history=_concat([part.history for part in parts]),
            candidates=_concat([part.candidates for part in parts]),
        )


def offsets_of(lengths: Array) -> Rows:
    """Offsets of lists of these lengths, (lists + 1,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def joined_offsets(parts: list[Ragged]) -> Rows:
    """Offsets of the concatenated lists of all parts."""
    if len(parts) == 1:
        return parts[0].offsets
    return offsets_of(np.concatenate([part.lengths for part in parts]))


def _take(column: Array | Ragged, entries: Rows) -> Array | Ragged:
    # ndarray.take gathers nearly twice as fast as an index does.
    return column.take(entries) if isinstance(column, Ragged) else column.take(entries, axis=0)


def _zeros(column: Array, entries: int) -> Array:
    """So many entries of zeros, of the shape and type of a column's entries."""
    return np.zeros((entries, *column.shape[1:]), column.dtype)


def entries_of(offsets: Rows, rows: Rows) -> Rows:
    """Positions of the entries of the lists `rows`, concatenated."""
    lengths = offsets[rows + 1] - offsets[rows]
    starts = np.cumsum(lengths) - lengths
    entries = np.repeat(offsets[rows] - starts, lengths)
    entries += np.arange(len(entries))
    return entries


def _runs(column: Array | Ragged, offsets: Rows, rows: Rows) -> Any:
    """The runs `rows` of a column; run i spans `offsets[i]` to `offsets[i + 1]`."""
    if isinstance(column, Ragged):
        # A run of lists is also a run of their entries.
        inner = column.offsets[offsets]
        children = {name: _runs(child, inner, rows) for name, child in column.children.items()}
        return Ragged(offsets=offsets_of(_runs(column.lengths, offsets, rows)), children=children)
    bits = {4: np.int32, 8: np.int64}.get(column.itemsize)
    if bits is None or column.ndim > 1:
        return column.take(entries_of(offsets, rows), axis=0)
    # Torch warns of Arrow's read-only memory, although nothing writes to it here.
    values = np.require(column[offsets[0] :], requirements="W").view(bits)
    # Imported here, so that commands that only look at data do not wait for it.
    import fbgemm_gpu  # noqa: F401 - registers torch.ops.fbgemm
    import torch

    _, taken, _ = torch.ops.fbgemm.permute_1D_sparse_data(
        torch.from_numpy(rows.astype(np.int32)),
        torch.from_numpy(offsets[1:] - offsets[:-1]),
        torch.from_numpy(values),
        None,
        None,
    )
    return taken.numpy().view(column.dtype)


def _concat(parts: list[Ragged]) -> Ragged:
    children: dict[str, Array | Ragged] = {}
    for name, child in parts[0].children.items():
        if isinstance(child, Ragged):
            children[name] = _concat([part.lists(name) for part in parts])
        else:
            children[name] = np.concatenate([part.column(name) for part in parts])
    return Ragged(offsets=joined_offsets(parts), children=children)
