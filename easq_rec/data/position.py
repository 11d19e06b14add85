"""Where the stream of an epoch stands, and how what is left of it falls to ranks.

An epoch is a sequence of requests. What is left of it, one interval after the other, is dealt to the ranks in either of
two ways:

- spread: each rank takes one contiguous share of what is left, and walks through it
- in order: each step takes what comes next, and every rank a cut of that

Both are functions of what is left and of the number of ranks alone, and dealing again what is left after some steps to
the same number of ranks gives each of them what it had before. So intervals are all that a checkpoint has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from easq_rec.data.columns import Rows

Interval = tuple[int, int]
"""Half-open, of positions in an epoch's sequence."""


def share(count: int, rank: int, ranks: int) -> Interval:
    """What rank number `rank` of `ranks` gets of `count` things: shares differ by one at most, and leave nothing."""
    return count * rank // ranks, count * (rank + 1) // ranks


class Intervals:
    """Disjoint ascending intervals of a sequence, seen as one list of positions."""

    def __init__(self, intervals: tuple[Interval, ...]) -> None:
        self._start = np.array([start for start, _ in intervals], dtype=np.int64)
        lengths = np.array([end - start for start, end in intervals], dtype=np.int64)
        self._ends = np.cumsum(lengths)
        self._begins = self._ends - lengths

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def cut(self, begin: int, end: int) -> list[Interval]:
        """The list's entries number `begin` to `end`, as intervals of the sequence."""
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
        """Positions in the sequence of the list's entries with these numbers."""
        index = np.searchsorted(self._ends, entries, side="right")
        return entries + (self._start - self._begins)[index]


@dataclass(frozen=True, kw_only=True)
class StreamPosition:
    """So many requests of what was dealt have been delivered, over all ranks."""

    epoch: int = 0
    dealt: tuple[Interval, ...] | None = None
    """What was left of the epoch when its requests were dealt; None: all of it."""
    delivered: int = 0
    ranks: int = 1
    """To how many ranks they were dealt."""
    spread: bool = False

    def left(self, total: int) -> tuple[Interval, ...]:
        """What is left of the epoch, which has `total` requests."""
        dealt = self.dealt if self.dealt is not None else ((0, total),)
        intervals = Intervals(dealt)
        count = len(intervals)
        if not self.spread or self.delivered >= count:
            return tuple(intervals.cut(self.delivered, count))
        # Every step but an epoch's last takes equally much from each rank.
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
    """The same positions in as few intervals as can be."""
    merged: list[Interval] = []
    for start, end in intervals:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)
