"""The order in which chunks of several partitions are trained, and the clock of the stream.

Chunks are merged by the time of their first row. A chunk waits until every other partition has a later one, or is idle:
it has delivered nothing for a while. So the order depends on the data alone, unless a partition is idle.

The clock is the least of the partitions' latest times, without idle ones, less the disorder that is allowed within a
partition. It never goes back. Rank 0 keeps the only merge.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from easq_rec.data.columns import Rows
from easq_rec.data.stream.source import Chunk

Place = tuple[int, int]
"""(offset, row) of the next row of a partition."""


@dataclass(frozen=True, kw_only=True)
class ChunkRows:
    """Some rows of a chunk."""

    partition: str
    offset: int
    begin: int
    end: int
    """Exclusive."""


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """How far a stream has been read. Equal on all ranks."""

    positions: Mapping[str, Place] = field(default_factory=dict)
    """The next row of each partition that was read."""
    latest_ms: Mapping[str, int] = field(default_factory=dict)
    """Latest time of a row that was read, by partition."""
    late_rows: int = 0
    """Rows that were older than the clock when they were read."""
    passed_rows: int = 0
    """Rows that were not trained on, because they are older than `follow.since_ms`."""

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return {
            "positions": {name: list(place) for name, place in self.positions.items()},
            "latest_ms": dict(self.latest_ms),
            "late_rows": self.late_rows,
            "passed_rows": self.passed_rows,
        }

    @staticmethod
    def from_dict(values: Mapping[str, object]) -> StreamState:
        """The inverse of `to_dict`."""
        positions, latest = values["positions"], values["latest_ms"]
        late, passed = values["late_rows"], values["passed_rows"]
        assert isinstance(positions, dict) and isinstance(latest, dict)
        assert isinstance(late, int) and isinstance(passed, int)
        return StreamState(
            positions={name: (offset, row) for name, (offset, row) in positions.items()},
            latest_ms=latest,
            late_rows=late,
            passed_rows=passed,
        )

    def offsets(self) -> dict[str, int]:
        """The chunk with which each partition continues."""
        return {name: offset for name, (offset, _) in self.positions.items()}


@dataclass(kw_only=True)
class _Partition:
    """What has arrived of a partition and is not merged yet."""

    seen_s: float
    """When it delivered something, or became known."""
    chunks: deque[Chunk] = field(default_factory=deque)


class TimeMerge:
    """Merges chunks by time and cuts steps from them.

    Args:
        state: where the streams continue.
        disorder_ms: how much earlier than its predecessors a row of a partition may be.
        since_ms: the first rows of a chunk are passed over if they are older; None: none are.
        idle_s: seconds without a chunk after which no other partition waits for a partition.
        now: a clock in seconds.
    """

    def __init__(
        self,
        state: StreamState,
        *,
        disorder_ms: int,
        idle_s: float,
        clock_ms: int = 0,
        since_ms: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._disorder_ms = disorder_ms
        self._idle_s = idle_s
        self._clock_ms = clock_ms
        self._since_ms = since_ms
        self._now = now
        self._partitions: dict[str, _Partition] = {}
        self._ready: deque[tuple[Chunk, int, int]] = deque()
        """Chunks in the order of training, each with its next row, and with the rows that are passed over before it."""
        self.rows = 0
        """Rows that `take` could give now."""
        self.waiting = 0
        """Rows that wait for other partitions."""

    def add(self, chunks: Iterable[Chunk], partitions: Iterable[str]) -> None:
        """Takes over what has arrived.

        Args:
            partitions: those that are known.
        """
        for name in partitions:
            if name not in self._partitions:
                self._partitions[name] = _Partition(seen_s=self._now())
        for chunk in chunks:
            partition = self._partitions[chunk.partition]
            partition.chunks.append(chunk)
            partition.seen_s = self._now()
            self.waiting += len(chunk.time_ms)
        self._merge()

    def _merge(self) -> None:
        names = sorted(self._partitions)
        while True:
            heads = [(self._first_ms(name), name) for name in names if self._partitions[name].chunks]
            empty = [name for name in names if not self._partitions[name].chunks]
            if not heads or any(self._is_active(name) for name in empty):
                return
            _, name = min(heads)
            chunk = self._partitions[name].chunks.popleft()
            offset, row = self._state.positions.get(name, (0, 0))
            begin = row if chunk.offset == offset else 0
            first = begin if self._since_ms is None else _first_since(chunk, begin, self._since_ms)
            self._ready.append((chunk, first, first - begin))
            self.rows += len(chunk.time_ms) - first
            self.waiting -= len(chunk.time_ms)

    def _is_active(self, name: str) -> bool:
        return self._now() - self._partitions[name].seen_s < self._idle_s

    def _first_ms(self, name: str) -> int:
        return int(self._partitions[name].chunks[0].time_ms[0])

    def take(self, count: int) -> tuple[list[ChunkRows], StreamState, int]:
        """The next `count` rows, or fewer if there are fewer; the state after them, and the clock."""
        parts, positions, latest = [], dict(self._state.positions), dict(self._state.latest_ms)
        late, passed_rows = self._state.late_rows, self._state.passed_rows
        while count and self._ready:
            chunk, begin, passed = self._ready.popleft()
            passed_rows += passed
            end = min(begin + count, len(chunk.time_ms))
            times: Rows = chunk.time_ms[begin:end]
            if end > begin:
                parts.append(ChunkRows(partition=chunk.partition, offset=chunk.offset, begin=begin, end=end))
                latest[chunk.partition] = max(latest.get(chunk.partition, 0), int(times.max()))
                late += int(((times >= 0) & (times < self._clock_ms)).sum())
            done = end == len(chunk.time_ms)
            positions[chunk.partition] = (chunk.offset + 1, 0) if done else (chunk.offset, end)
            if not done:
                self._ready.appendleft((chunk, end, 0))
            count -= end - begin
            self.rows -= end - begin
        self._state = StreamState(positions=positions, latest_ms=latest, late_rows=late, passed_rows=passed_rows)
        self._clock_ms = max(self._clock_ms, self._watermark(latest) - self._disorder_ms)
        return parts, self._state, self._clock_ms

    def _watermark(self, latest: Mapping[str, int]) -> int:
        """The least of the latest times of the partitions that are active; of all if none is."""
        waiting = {chunk.partition for chunk, _, _ in self._ready}
        active = [
            latest.get(name, 0)
            for name, partition in self._partitions.items()
            if partition.chunks or name in waiting or self._is_active(name)
        ]
        return min(active) if active else max(latest.values(), default=0)


def _first_since(chunk: Chunk, begin: int, since_ms: int) -> int:
    """The first row of a chunk, from `begin` on, that is not older than a time; the end of the chunk if all are."""
    young = chunk.time_ms[begin:] >= since_ms
    return begin + (int(young.argmax()) if young.any() else len(young))
