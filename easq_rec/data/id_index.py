"""Numbers 0, 1, 2, ... for ids of any size, exact and without a Python loop over ids."""

from __future__ import annotations

import numpy as np

from easq_rec.data.columns import Rows

UNKNOWN = -1


class IdIndex:
    """Gives each distinct int64 id the next number.

    The ids lie in sorted runs, each more than twice as long as the next one: a search reads few runs, and adding ids
    copies each of them a logarithmic number of times.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Rows, Rows]] = []
        """(ascending ids, their numbers) of each run."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, ids: Rows) -> Rows:
        """The number of each id; UNKNOWN for ids that have none."""
        distinct, place = np.unique(ids, return_inverse=True)
        return self._search(distinct)[place]

    def add(self, ids: Rows) -> Rows:
        """The number of each id. Ids without one get the next numbers, in ascending order."""
        distinct, place = np.unique(ids, return_inverse=True)
        numbers = self._search(distinct)
        new = numbers == UNKNOWN
        if new.any():
            numbers[new] = self._count + np.arange(np.count_nonzero(new))
            self._count += int(np.count_nonzero(new))
            self._append(distinct[new], numbers[new])
        return numbers[place]

    def ids(self) -> Rows:
        """All ids, in the order of their numbers."""
        found = np.empty(self._count, np.int64)
        for ids, numbers in self._runs:
            found[numbers] = ids
        return found

    def _search(self, distinct: Rows) -> Rows:
        numbers = np.full(len(distinct), UNKNOWN)
        for ids, theirs in self._runs:
            at = np.searchsorted(ids, distinct)
            at[at == len(ids)] = 0
            known = ids[at] == distinct
            numbers[known] = theirs[at[known]]
        return numbers

    def _append(self, ids: Rows, numbers: Rows) -> None:
        self._runs.append((ids, numbers))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            (one, first), (other, second) = self._runs[-2:]
            ids = np.concatenate([one, other])
            # A stable sort merges sorted runs.
            order = np.argsort(ids, kind="stable")
            self._runs[-2:] = [(ids[order], np.concatenate([first, second])[order])]
