"""As-of lookup: the last row of a key that is valid at a given time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
NONE = -1
"""Row number that means `no row`."""
SPARSE = 8
"""Maximum ratio of id space to keys for a lookup table; sparser keys are found by binary search."""


class Versions:
    """Finds rows by key and time.

    Args:
        keys: key of every row, (V,).
        valid_from: start of each row's validity, (V,); None: always valid. Of rows with equal key and time, the last
            one is used.
    """

    def __init__(self, keys: Int, valid_from: Int | None = None) -> None:
        times = np.zeros(len(keys), np.int64) if valid_from is None else valid_from
        self._rows = np.lexsort((times, keys))
        sorted_keys, sorted_times = keys[self._rows], times[self._rows]
        self._keys, starts = np.unique(sorted_keys, return_index=True)
        self._last = np.append(starts[1:], len(keys)) - 1
        self._static = valid_from is None
        # (key, time) as one number: rank of the key times the number of times, plus rank of the time. Unlike the
        # values, the ranks cannot overflow.
        self._times = np.unique(times)
        self._step = len(self._times) + 1
        place = np.searchsorted(self._keys, sorted_keys)
        self._order = place * self._step + np.searchsorted(self._times, sorted_times) + 1
        same = self._order[1:] == self._order[:-1]
        self.superseded: Int = np.sort(self._rows[:-1][same])
        """Rows superseded by a later row with the same key and time."""
        self._first_key = int(self._keys[0]) if len(self._keys) else 0
        span = int(self._keys[-1]) - self._first_key + 1 if len(self._keys) else 0
        self._table: NDArray[np.int32] | None = None
        if 0 < span <= SPARSE * len(self._keys):
            self._table = np.full(span, NONE, np.int32)
            self._table[self._keys - self._first_key] = np.arange(len(self._keys))

    def has(self, keys: Int) -> NDArray[np.bool_]:
        """Whether each key has a row at any time."""
        return self._places(keys) != NONE

    def find(self, keys: Int, times: Int | None = None) -> Int:
        """Row of every (key, time), or NONE. Static rows need no times."""
        places = self._places(keys)
        if not len(self._keys):
            return places
        if self._static:
            return np.where(places == NONE, NONE, self._rows[self._last[places]])
        assert times is not None
        at = (
            np.searchsorted(
                self._order, places * self._step + np.searchsorted(self._times, times, side="right"), "right"
            )
            - 1
        )
        held = (places != NONE) & (at >= 0) & (self._order[at] // self._step == places)
        return np.where(held, self._rows[at], NONE)

    def _places(self, keys: Int) -> Int:
        if not len(self._keys):
            return np.full(len(keys), NONE)
        if self._table is not None:
            inside = (keys >= self._first_key) & (keys <= self._keys[-1])
            return np.where(inside, self._table[np.where(inside, keys - self._first_key, 0)], NONE).astype(np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, NONE)


def joint_codes(left: list[Int], right: list[Int]) -> tuple[Int, Int]:
    """One number per row of two tables; rows are equal in all columns exactly if their numbers are equal."""
    rows = len(left[0])
    codes = np.zeros(rows + len(right[0]), np.int64)
    for mine, other in zip(left, right, strict=True):
        values = np.unique(np.concatenate((mine, other)), return_inverse=True)[1]
        codes = np.unique(codes * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
    return codes[:rows], codes[rows:]


def ragged(starts: Int, lengths: Int) -> Int:
    """start, start + 1, ... of every range, concatenated."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum(), dtype=np.int64)
