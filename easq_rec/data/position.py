"""Position of the stream in an epoch, and the distribution of the remaining requests over ranks.

An epoch is a sequence of requests. The remaining intervals are distributed in one of two ways:

- spread: each rank reads one contiguous share of the remaining requests
- in order: each step takes the next requests and divides them among the ranks

Both depend only on the remaining intervals and the number of ranks. Distributing the remainder again over the same
number of ranks gives each rank the same requests as before. So a checkpoint stores only intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from easq_rec.data.columns import Rows

Interval = tuple[int, int]
"""Half-open, of positions in an epoch's sequence."""


def share(count: int, rank: int, ranks: int) -> Interval:
    """The part of `count` items that rank `rank` of `ranks` gets; sizes differ by at most one."""
    return count * rank // ranks, count * (rank + 1) // ranks


class Intervals:
    """Disjoint ascending intervals of a sequence, used as one list of positions."""

    def __init__(self, intervals: tuple[Interval, ...]) -> None:
        self._start = np.array([start for start, _ in intervals], dtype=np.int64)
        lengths = np.array([end - start for start, end in intervals], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def cut(self, begin: int, end: int) -> list[Interval]:
        """Entries `begin` to `end` of the list, as intervals of the sequence."""
        if begin >= end:
            return []
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right")
        found = []
        for index in range(first, last + 1):
            low, high = max(begin, self._begins[index]), min(end, self._ends[index])
            shift = self._start[index] - self._begins[index]
            found.append((int(low + shift), int(high + shift)))
        return found

    def at(self, entries: Rows) -> Rows:
        """Positions in the sequence of the given entries of the list."""
        index = np.searchsorted(self._ends, entries, side="right")
        return entries + (self._start - self._begins)[index]


@dataclass(frozen=True, kw_only=True)
class StreamPosition:
    """Number of requests delivered since the last distribution, over all ranks."""

    epoch: int = 0
    dealt: tuple[Interval, ...] | None = None
    """The intervals that were distributed; None: the whole epoch."""
    delivered: int = 0
    ranks: int = 1
    """Number of ranks in that distribution."""
    spread: bool = False

    def left(self, total: int) -> tuple[Interval, ...]:
        """Remaining intervals of an epoch of `total` requests."""
        dealt = self.dealt if self.dealt is not None else ((0, total),)
        intervals = Intervals(dealt)
        count = len(intervals)
        if not self.spread or self.delivered >= count:
            return tuple(intervals.cut(self.delivered, count))
        # Every step except an epoch's last takes the same number of requests from each rank.
        each = self.delivered // self.ranks
        spans = (share(count, rank, self.ranks) for rank in range(self.ranks))
        return _merged([part for begin, end in spans for part in intervals.cut(begin + each, end)])

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return {
            "epoch": self.epoch,
            "dealt": None if self.dealt is None else [list(interval) for interval in self.dealt],
            "delivered": self.delivered,
            "ranks": self.ranks,
            "spread": self.spread,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> StreamPosition:
        """The inverse of `to_dict`."""
        dealt = values["dealt"]
        intervals = None if dealt is None else tuple((start, end) for start, end in dealt)
        return StreamPosition(**{**values, "dealt": intervals})


def _merged(intervals: list[Interval]) -> tuple[Interval, ...]:
    """The same positions in the fewest intervals."""
    merged: list[Interval] = []
    for start, end in intervals:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)
