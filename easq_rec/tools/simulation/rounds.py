"""Requests of a synthetic world as arrays, and the watch histories that they read.

Shapes: R requests of a round, C candidates, H history entries.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.tools.simulation.latents import Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """Requests of distinct users in time order; every array's first dim is R."""

    request_id: Int
    user_id: Int
    timestamp_ms: Int
    history_length: Int
    history_video: NDArray[np.int32]
    """[R, H] oldest first, valid up to `history_length`, as are the next two fields."""
    history_timestamp_ms: Int
    history_ratio: NDArray[np.float32]
    video: Int
    """[R, C], as are all fields below."""
    watch_ms: NDArray[np.int32]
    long_view: NDArray[np.int8]
    like: NDArray[np.int8]
    follow: NDArray[np.int8]
    comment: NDArray[np.int8]
    forward: NDArray[np.int8]
    returned: NDArray[np.int8]
    """Whether the user returns on the next day for similar videos."""
    shown: NDArray[np.int8]
    """Whether the questionnaire was shown."""
    true_satisfaction: NDArray[np.float32]
    true_engagement: NDArray[np.float32]
    answer: NDArray[np.int8]
    """NO_ANSWER or a code of `THREE_ANSWERS`."""
    answered_at_ms: Int

    def answered(self) -> Self:
        """The requests with at least one answer."""
        rows = (self.answer != NO_ANSWER).any(axis=1)
        return self.take(rows)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the requests."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def choose(self, columns: Int) -> Self:
        """The same requests with only the candidates `columns` [R, K], in that order."""
        names = [field.name for field in dataclasses.fields(self)]
        chosen = names[names.index("video") :]
        return dataclasses.replace(
            self, **{name: np.take_along_axis(getattr(self, name), columns, axis=1) for name in chosen}
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondRound(Round):
    """Requests of World 2, which has two more actions."""

    valid_play: NDArray[np.int8]
    hate: NDArray[np.int8]


class Histories:
    """The last H watched videos of every user: a ring buffer with 16 bytes per entry."""

    def __init__(self, users: int, length: int) -> None:
        self.length = length
        self.watched = np.zeros(users, dtype=np.int64)
        """[U] number of entries written so far; the next one goes to slot `watched % length`."""
        self.video = np.zeros((users, length), dtype=np.int32)
        self.timestamp_ms = np.zeros((users, length), dtype=np.int64)
        self.ratio = np.zeros((users, length), dtype=np.float32)

    def copy(self) -> Histories:
        """An independent copy."""
        other = Histories(0, self.length)
        other.watched, other.video = self.watched.copy(), self.video.copy()
        other.timestamp_ms, other.ratio = self.timestamp_ms.copy(), self.ratio.copy()
        return other

    def read(self, users: Int) -> tuple[Int, NDArray[np.int32], Int, NDArray[np.float32]]:
        """(lengths [R], videos [R, H], timestamps [R, H], watch ratios [R, H]), oldest first."""
        watched = self.watched[users]
        lengths = np.minimum(watched, self.length)
        slots = ((watched - lengths)[:, None] + np.arange(self.length)) % self.length
        at = (users[:, None], slots)
        return lengths, self.video[at], self.timestamp_ms[at], self.ratio[at]

    def append(
        self, users: Int, videos: Int, timestamp_ms: Int, ratio: NDArray[np.float32], watched: NDArray[np.bool_]
    ) -> None:
        """Adds the candidates [R, C] that `watched` marks. `users` must be distinct."""
        total = watched.sum(axis=1)
        rank = np.cumsum(watched, axis=1) - 1
        # If one request fills the ring, only its last entries are written, so that no slot is written twice.
        rows, columns = np.nonzero(watched & (rank >= (total - self.length)[:, None]))
        slots = (self.watched[users[rows]] + rank[rows, columns]) % self.length
        at = (users[rows], slots)
        self.video[at] = videos[rows, columns]
        self.timestamp_ms[at] = timestamp_ms[rows]
        self.ratio[at] = ratio[rows, columns]
        self.watched[users] += total
