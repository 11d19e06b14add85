"""What is kept of a column while row groups pass by: of bounded size, whatever the size of the dataset."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from easq_rec.data.columns import Array

KEPT = 1 << 16
"""Smallest hashes kept of a column of many ids."""
RECENT = 1 << 18
"""Places for hashes of a column that were met not long ago."""
BITMAP = 1 << 24
"""Ids from 0 to below this are counted one by one, a byte each."""
STANDARD_ERROR = (KEPT - 2) ** -0.5
"""Relative standard error of an estimated count: 0.4%."""
LONGEST = 1 << 16
"""Lists beyond this length count as of this length."""
SPANS = 4_096
"""Spans of time in which requests are counted, at most."""
WIDTHS = tuple(1_000 * seconds for seconds in (1, 10, 60, 600, 3_600, 21_600, 86_400, 604_800, 2_419_200))
"""Of spans of time, in milliseconds: 1 s to four weeks, each a multiple of the one before. Beyond, ten times each."""
STEPS = 100
"""Steps of a logarithmic histogram per factor e: quantiles to within half a step, 0.5%."""


class Distinct:
    """Counts distinct ids.

    Exact as long as all ids lie in 0..2**24-1, or as they are at most 65,536. Else the estimate of the k minimum values
    (Bar-Yossef et al. 2002): of n hashes that are uniform in [0, 1), the k-th smallest is about k / n.
    """

    def __init__(self) -> None:
        self._seen: npt.NDArray[np.bool_] | None = np.zeros(1_024, np.bool_)
        """Which ids were there; None once an id did not fit."""
        self._kept = np.zeros(0, np.uint64)
        """The `KEPT` smallest distinct hashes, ascending, without those that wait."""
        self._waiting: list[Array] = []
        """Hashes to be kept, or not; most of them distinct."""
        self._recent = np.zeros(0, np.uint64)
        """A hash of each remainder by `RECENT` that was met not long ago."""

    def add(self, ids: Array, smallest: int, largest: int) -> None:
        """Adds int64 ids, which lie between the two (at least one)."""
        if self._seen is not None and smallest >= 0 and largest < BITMAP:
            if largest >= len(self._seen):
                grown = np.zeros(min(max(2 * len(self._seen), largest + 1), BITMAP), np.bool_)
                grown[: len(self._seen)] = self._seen
                self._seen = grown
            self._seen[ids] = True
            return
        self._leave_bitmap()
        self._add_hashes(hash_ids(ids))

    def merge(self, other: Distinct) -> None:
        """Adds all that another column holds."""
        if self._seen is not None and other._seen is not None:
            small, large = sorted((self._seen, other._seen), key=len)
            self._seen = large.copy()
            self._seen[: len(small)] |= small
            return
        self._leave_bitmap()
        self._add_hashes(other._smallest() if other._seen is None else hash_ids(np.flatnonzero(other._seen)))

    @property
    def exact(self) -> bool:
        return self._seen is not None or len(self._smallest()) < KEPT

    def count(self) -> int:
        if self._seen is not None:
            return int(np.count_nonzero(self._seen))
        if self.exact:
            return len(self._smallest())
        return round((KEPT - 1) / ((float(self._smallest()[-1]) + 1) / 2.0**64))

    def _leave_bitmap(self) -> None:
        if self._seen is not None:
            ids, self._seen = np.flatnonzero(self._seen), None
            self._add_hashes(hash_ids(ids))

    def _add_hashes(self, hashes: Array) -> None:
        if len(self._kept) == KEPT:
            hashes = hashes[hashes < self._kept[-1]]
        if not len(self._recent):
            # No hash but 0 has the remainder 0 and is 0: so nothing but it is taken for one that was met.
            self._recent = np.zeros(RECENT, np.uint64)
            self._recent[0] = 1
        # Ids come again and again, and to sort them all would take most of the time.
        places = hashes & np.uint64(RECENT - 1)
        new = self._recent[places] != hashes
        hashes = hashes[new]
        self._recent[places[new]] = hashes
        self._waiting.append(hashes)
        if sum(map(len, self._waiting)) >= KEPT:
            self._smallest()

    def _smallest(self) -> Array:
        """The `KEPT` smallest distinct hashes of all that were added, ascending."""
        if self._waiting:
            self._kept = np.unique(np.concatenate((self._kept, *self._waiting)))[:KEPT]
            self._waiting = []
        return self._kept


def hash_ids(ids: Array) -> Array:
    """A bijection of 64-bit integers whose results look uniform: the finalizer of SplitMix64."""
    x = ids.astype(np.int64, copy=False).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Lengths:
    """How many lists there are of each length."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, np.int64)
        """By length."""

    def add(self, lengths: Array) -> None:
        found = np.bincount(np.minimum(lengths, LONGEST), minlength=len(self.counts))
        found[: len(self.counts)] += self.counts
        self.counts = found

    def summary(self) -> dict[str, float]:
        """lists, min, median, p95, max, mean and the share of empty ones; of no lists, zeros."""
        lists = int(self.counts.sum())
        if not lists:
            return dict.fromkeys(("lists", "min", "median", "p95", "max", "mean", "empty"), 0.0)
        there, total = np.flatnonzero(self.counts), np.cumsum(self.counts)

        def quantile(share: float) -> float:
            return float(np.searchsorted(total, share * lists))

        return {
            "lists": lists,
            "min": float(there[0]),
            "median": quantile(0.5),
            "p95": quantile(0.95),
            "max": float(there[-1]),
            "mean": float(np.arange(len(self.counts)) @ self.counts / lists),
            "empty": float(self.counts[0] / lists),
        }


class Spans:
    """Counts points in time by spans of equal width, which grows when there come to be too many."""

    def __init__(self) -> None:
        self.width = WIDTHS[0]
        """Of a span, in milliseconds."""
        self._counts: dict[int, int] = {}

    def add(self, times: Array) -> None:
        for start, count in zip(*np.unique(times // self.width, return_counts=True), strict=True):
            self._counts[int(start)] = self._counts.get(int(start), 0) + int(count)
        while len(self._counts) > SPANS:
            factor = _wider(self.width) // self.width
            wider: dict[int, int] = {}
            for start, count in self._counts.items():
                wider[start // factor] = wider.get(start // factor, 0) + count
            self.width, self._counts = self.width * factor, wider

    def counts(self, most: int) -> tuple[list[int], list[int], int]:
        """(starts in milliseconds, counts, width in milliseconds) of at most so many spans without a gap."""
        if not self._counts:
            return [], [], self.width
        factor, first, last = 1, min(self._counts), max(self._counts)
        while last // factor - first // factor >= most:
            factor = _wider(self.width * factor) // self.width
        counts = [0] * (last // factor - first // factor + 1)
        for start, count in self._counts.items():
            counts[start // factor - first // factor] += count
        width = self.width * factor
        return [(first // factor + index) * width for index in range(len(counts))], counts, width


def _wider(width: int) -> int:
    """The next width, a multiple of this one."""
    return next((wider for wider in WIDTHS if wider > width), 10 * width)


class Quantiles:
    """Quantiles of non-negative numbers to within 0.5%, out of a logarithmic histogram."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)

    def add(self, values: Array) -> None:
        steps = np.rint(STEPS * np.log1p(np.maximum(values, 0))).astype(np.int64)
        found = np.bincount(steps, minlength=len(self._counts))
        found[: len(self._counts)] += self._counts
        self._counts = found

    def quantile(self, share: float) -> float | None:
        """None: there are no values."""
        total = np.cumsum(self._counts)
        if not total[-1]:
            return None
        return float(np.expm1(np.searchsorted(total, share * total[-1]) / STEPS))
