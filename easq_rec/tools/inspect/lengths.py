"""How many lists of each length there are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The distribution of a list's lengths, exact."""

    counts: dict[int, int]
    """Lists of each length that occurs, ascending; null lists are left out."""

    @staticmethod
    def of(counts: dict[int, int] | None) -> Lengths:
        """Lengths of a histogram in any order; None: there are no lists."""
        return Lengths(counts=dict(sorted((counts or {}).items())))

    @property
    def lists(self) -> int:
        return sum(self.counts.values())

    @property
    def empty(self) -> float:
        """Share of empty lists."""
        return self.counts.get(0, 0) / max(self.lists, 1)

    @property
    def mean(self) -> float:
        return self.entries / max(self.lists, 1)

    @property
    def entries(self) -> int:
        """Entries of all lists."""
        return sum(length * count for length, count in self.counts.items())

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the lists does not exceed; 0 if there are no lists."""
        below = 0
        for length, count in self.counts.items():
            below += count
            if below >= share * self.lists:
                return length
        return 0
