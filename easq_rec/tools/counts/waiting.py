"""Impressions by bucket of time, and those whose outcomes are not known yet."""

from __future__ import annotations

from easq_rec.data.counts import CountedImpressions, by_bucket


class Waiting:
    """Keeps impressions until the bucket of time in which their outcome becomes known is over.

    Args:
        width_ms: length of the buckets.
    """

    def __init__(self, width_ms: int) -> None:
        self._width = width_ms
        self._parts: dict[int, list[CountedImpressions]] = {}
        """By the beginning of the bucket."""

    def add(self, impressions: CountedImpressions) -> None:
        """Adds impressions, in any order."""
        for start_ms, rows in by_bucket(impressions.known_ms, self._width):
            self._parts.setdefault(start_ms, []).append(impressions.take(rows))

    def take_before(self, bucket_ms: int) -> CountedImpressions | None:
        """Removes and returns the impressions whose outcomes were known before the bucket that begins at a time."""
        due = sorted(start_ms for start_ms in self._parts if start_ms < bucket_ms)
        parts = [part for start_ms in due for part in self._parts.pop(start_ms)]
        return CountedImpressions.concat(parts) if parts else None
