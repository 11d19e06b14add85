"""Impressions by bucket of time, and those whose outcomes are not known yet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from easq_rec.data.columns import Rows
from easq_rec.data.counts import CountedImpressions


def by_bucket(times_ms: Rows, width_ms: int) -> Iterator[tuple[int, Rows]]:
    """(beginning of a bucket, positions of the times in it) for each bucket that has some, in ascending order."""
    bucket = times_ms // width_ms
    order = np.argsort(bucket, kind="stable")
    numbers, lengths = np.unique(bucket, return_counts=True)
    ends = np.cumsum(lengths)
    for number, length, end in zip(numbers.tolist(), lengths, ends, strict=True):
        yield number * width_ms, order[end - length : end]


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
