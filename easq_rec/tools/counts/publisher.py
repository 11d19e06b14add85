"""Publishes counts while a log goes by: each by its own interval, and frozen ones at given times."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from easq_rec.config.schema import Count, FeatureSchema
from easq_rec.data.columns import Array, Ragged
from easq_rec.data.counts import MINUTE_MS, Counted, CountedImpressions, CountState
from easq_rec.data.published_counts import Impressions, PublishedCounts, by_impressions
from easq_rec.tools.counts.waiting import Waiting


class Publisher:
    """The counts of a log up to now, and those that requests see.

    Args:
        frozen_ms: times in ascending order. From the first one on, frozen counts are published only at these.
    """

    def __init__(self, schema: FeatureSchema, frozen_ms: Sequence[int]) -> None:
        self._schema = schema
        width_ms = schema.count_bucket_minutes * MINUTE_MS
        # A time is that of its whole bucket. It is not that of a longer interval: a count that is published once per
        # day stays as it was frozen before until the hour of the next freezing.
        frozen_ms = [ms // width_ms * width_ms for ms in frozen_ms]
        self._series = [
            _Series(counts, of, minutes, times)
            for frozen, times in ((False, ()), (True, frozen_ms))
            for (of, minutes), counts in by_impressions(
                [count for count in schema.counts if count.frozen == frozen], schema.count_bucket_minutes
            ).items()
        ]
        self.now_ms = 0
        """Beginning of the bucket that `lookup` is for."""

    def add(self, impressions: CountedImpressions, of: Impressions) -> None:
        """Adds impressions, in any order, to the counts of outcomes or to those of answers. They enter the counts when
        their outcome or answer is known."""
        for series in self._series:
            if series.of == of:
                series.waiting.add(impressions)

    def advance(self, now_ms: int) -> None:
        """Moves on to the bucket that begins at `now_ms`.

        Raises UserError if there are too many distinct ids.
        """
        self.now_ms = now_ms
        for series in self._series:
            series.advance(now_ms)

    def lookup(self, ids: Mapping[str, Array | Ragged], count: int) -> dict[str, Counted]:
        """The counts for candidates of requests in the bucket, by name."""
        found: dict[str, Counted] = {}
        for series in self._series:
            found |= series.seen.lookup(ids, count, self.now_ms)
        return found

    def publish(self, now_ms: int) -> PublishedCounts:
        """The counts for serving at a time from now on. Frozen ones have what happened since they were frozen, too."""
        for series in self._series:
            series.move(now_ms)
        return PublishedCounts(
            self._schema.counts,
            self._schema.count_ranges,
            [series.state for series in self._series],
            bucket_minutes=self._schema.count_bucket_minutes,
            now_ms=now_ms,
        )


class _Series:
    """Counts of the same impressions that are published together."""

    def __init__(self, counts: Sequence[Count], of: Impressions, minutes: int, frozen_ms: Sequence[int]) -> None:
        self.of = of
        self.state = CountState(counts, minutes)
        self.waiting = Waiting(minutes * MINUTE_MS)
        self.seen = self.state
        """What requests see: the state, or a copy of it at the time at which it was frozen."""
        self._frozen_ms = deque(frozen_ms)

    def advance(self, now_ms: int) -> None:
        for frozen_ms in self._due(now_ms):
            self.move(frozen_ms)
            self.seen = copy.deepcopy(self.state)
        self.move(now_ms)

    def move(self, now_ms: int) -> None:
        """Adds what was known before the bucket of a time."""
        start_ms = self.state.bucket_ms(now_ms)
        if start_ms > self.state.now_ms:
            self.state.add(self.waiting.take_before(start_ms), start_ms)

    def _due(self, now_ms: int) -> Iterator[int]:
        """The times of freezing up to a time."""
        while self._frozen_ms and self._frozen_ms[0] <= now_ms:
            yield self._frozen_ms.popleft()
