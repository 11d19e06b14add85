"""Counts as requests see them: each as it was last published, by its own interval.

Counts of the same impressions, all or the answered ones, with the same interval share a `CountState`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from easq_rec.config.schema import Count, NumberRange
from easq_rec.data.columns import Array, Ragged
from easq_rec.data.counts import Counted, CountState, Overall

Impressions = Literal["outcome", "answer"]
"""Which impressions are counted (`Count.of`): all of them, or those with an answer."""


class PublishedCounts:
    """Counts of different intervals.

    Args:
        counts: the declarations, in the order of the schema.
        ranges: the ranges of numbers that are keys.
        states: together they have all counts, each once.
        bucket_minutes: interval of counts that declare none.
        now_ms: time of the publication, the beginning of a bucket of `bucket_minutes`.
    """

    def __init__(
        self,
        counts: Sequence[Count],
        ranges: Sequence[NumberRange],
        states: Sequence[CountState],
        *,
        bucket_minutes: int,
        now_ms: int,
    ) -> None:
        self.counts = tuple(counts)
        self.ranges = tuple(ranges)
        self.states = tuple(states)
        self.bucket_minutes = bucket_minutes
        self.now_ms = now_ms
        self._owner = {count.name: state for state in states for count in state.counts}

    def lookup(self, ids: Mapping[str, Array | Ragged], count: int, at_ms: int) -> dict[str, Counted]:
        """The counts for candidates of requests in one bucket, by name: see `CountState.lookup`."""
        found: dict[str, Counted] = {}
        for state in self.states:
            found |= state.lookup(ids, count, at_ms)
        return {one.name: found[one.name] for one in self.counts}

    def state_of(self, count: Count) -> CountState:
        """The state that has a count."""
        return self._owner[count.name]

    def overall(self, count: Count) -> Overall:
        """All impressions of a count together."""
        state = self.state_of(count)
        return state.overall(count.counted, count.half_life_h, state.now_ms)


def by_impressions(counts: Sequence[Count], bucket_minutes: int) -> dict[tuple[Impressions, int], list[Count]]:
    """Counts by (which impressions they count, minutes between their publications)."""
    found: dict[tuple[Impressions, int], list[Count]] = {}
    for count in counts:
        found.setdefault((count.of, count.bucket_minutes or bucket_minutes), []).append(count)
    return found
