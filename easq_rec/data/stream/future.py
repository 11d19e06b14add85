"""Refuses rows of a stream whose time is far ahead of this machine's clock.

The clock of a stream never goes back. One request of the next century would move it there, and every later answer would
be admitted at once. An answer of the next century would never be admitted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.data.bad_rows import Place, check
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.kinds import NO_TIME


class FutureLimit:
    """The latest time that a row may have. It advances, so a row that is refused now may be accepted after a restart.

    Args:
        ahead_s: how far a row may be ahead of the machine's clock.
        now: the machine's clock, in unix seconds.
    """

    def __init__(self, ahead_s: float, now: Callable[[], float] = time.time) -> None:
        self._ahead_s = ahead_s
        self._now = now

    def plausible(self, time_ms: Rows) -> Rows:
        """The times with `NO_TIME` in place of those beyond the limit."""
        return np.where(time_ms > self._latest_ms, NO_TIME, time_ms)

    def check(self, requests: RequestColumns, place: Place) -> None:
        """Raises BadRows if a request, or an answer, has a time beyond the limit."""
        latest_ms, times = self._latest_ms, requests.timestamp_ms
        expected = (
            f"milliseconds up to {latest_ms}, {self._ahead_s / 60:g} minutes from now (follow.most_ahead_minutes)"
        )
        check(times > latest_ms, times, "timestamp_ms", place, None, expected)
        candidates = requests.candidates
        if "answered_at_ms" in candidates.children:
            answered_ms = candidates.column("answered_at_ms")
            late = (candidates.column("answer") != NO_ANSWER) & (answered_ms > latest_ms)
            check(late, answered_ms, "candidates.answered_at_ms", place, candidates.owners, expected)

    @property
    def _latest_ms(self) -> int:
        return round(1_000 * (self._now() + self._ahead_s))
