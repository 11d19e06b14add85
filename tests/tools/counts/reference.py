"""Counts by a plain loop over all earlier impressions, with floats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from easq_rec.config.schema import Count

MINUTE_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Impression:
    """One impression of a log."""

    ids: dict[str, Any]
    """By key, an id or a list of ids."""
    known_ms: int
    outcomes: dict[str, float]


def counted(
    log: Iterable[Impression], count: Count, ids: dict[str, Any], at_ms: int, bucket_minutes: int
) -> tuple[float, float, float]:
    """(shown, happened, prior) of a candidate with these ids, in a request at `at_ms`."""
    width = bucket_minutes * MINUTE_MS
    now = at_ms // width * width
    earlier = [impression for impression in log if impression.known_ms // width < at_ms // width]
    keys = combinations(ids, count)
    shown = happened = 0.0
    for key in keys:
        for impression in earlier:
            for other in combinations(impression.ids, count):
                if other == key:
                    shown += weight(impression, count, now)
                    happened += weight(impression, count, now) * impression.outcomes[count.counted]
    every = sum(weight(impression, count, now) for impression in earlier)
    good = sum(weight(impression, count, now) * impression.outcomes[count.counted] for impression in earlier)
    return shown / max(len(keys), 1), happened / max(len(keys), 1), (good + 0.5) / (every + 1)


def weight(impression: Impression, count: Count, now: int) -> float:
    if count.half_life_h is None:
        return 1.0
    return 0.5 ** ((now - impression.known_ms) / (count.half_life_h * 3_600_000))


def combinations(ids: dict[str, Any], count: Count) -> list[tuple[int, ...]]:
    """The ids of each key; one for each id of a list."""
    found: list[tuple[int, ...]] = [()]
    for key in count.keys:
        values = ids[key] if isinstance(ids[key], list) else [ids[key]]
        found = [(*start, value) for start in found for value in values]
    return found
