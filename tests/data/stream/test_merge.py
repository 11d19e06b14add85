"""The order of chunks of several partitions, the clock, and the positions of a step."""

from __future__ import annotations

import numpy as np

from easq_rec.data.stream.merge import StreamState, TimeMerge
from easq_rec.data.stream.source import Chunk

IDLE_S = 10.0


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def chunk(partition: str, offset: int, *times: int) -> Chunk:
    return Chunk(partition=partition, offset=offset, time_ms=np.array(times, np.int64))


def merge_of(state: StreamState | None = None, *, disorder_ms: int = 0) -> tuple[TimeMerge, Clock]:
    clock = Clock()
    return TimeMerge(state or StreamState(), disorder_ms=disorder_ms, idle_s=IDLE_S, now=clock), clock


def rows(parts: list) -> list[tuple[str, int, int, int]]:  # type: ignore[type-arg]
    return [(part.partition, part.offset, part.begin, part.end) for part in parts]


def test_chunks_are_merged_by_time_whatever_order_they_arrive_in() -> None:
    """A chunk waits until the other partition has a later one."""
    orders = [[0, 1, 2, 3], [3, 1, 2, 0], [1, 3, 0, 2]]
    chunks = [chunk("a", 5, 10, 20), chunk("a", 6, 40, 50), chunk("b", 0, 15, 16), chunk("b", 2, 60, 61)]
    found = []
    for order in orders:
        merge, _ = merge_of()
        arriving = sorted(order, key=lambda index: (order.index(index),))
        by_partition = {name: [c for c in chunks if c.partition == name] for name in "ab"}
        for index in arriving:
            # Within a partition, chunks arrive in order.
            merge.add([by_partition[chunks[index].partition].pop(0)], ["a", "b"])
        found.append(rows(merge.take(100)[0]))
    assert found[0] == found[1] == found[2] == [("a", 5, 0, 2), ("b", 0, 0, 2), ("a", 6, 0, 2)]


def test_no_partition_waits_for_an_idle_one() -> None:
    merge, clock = merge_of()
    merge.add([chunk("a", 0, 10, 20), chunk("a", 1, 30)], ["a", "b"])
    assert merge.rows == 0 and merge.waiting == 3
    clock.now = IDLE_S + 1
    merge.add([], ["a", "b"])
    parts, state, clock_ms = merge.take(100)
    assert rows(parts) == [("a", 0, 0, 2), ("a", 1, 0, 1)] and clock_ms == 30
    merge.add([chunk("b", 0, 12)], ["a", "b"])
    parts, state, clock_ms = merge.take(100)
    assert rows(parts) == [("b", 0, 0, 1)] and clock_ms == 30, "the clock never goes back"
    assert state.late_rows == 1


def test_the_clock_is_the_least_of_the_partitions_less_the_disorder() -> None:
    merge, _ = merge_of(disorder_ms=5)
    merge.add([chunk("a", 0, 10, 90), chunk("b", 0, 20, 40), chunk("a", 1, 95), chunk("b", 1, 99)], ["a", "b"])
    assert merge.take(2)[2] == 0, "b has no row yet"
    assert merge.take(2)[2] == 35
    assert merge.take(1)[2] == 35


def test_a_step_ends_within_a_chunk_and_a_resumed_merge_goes_on_there() -> None:
    chunks = [chunk("", 0, 1, 2, 3, 4, 5), chunk("", 4, 6, 7)]
    merge, _ = merge_of()
    merge.add(chunks, [""])
    first, state, _ = merge.take(3)
    assert rows(first) == [("", 0, 0, 3)] and state.positions == {"": (0, 3)}
    resumed, _ = merge_of(StreamState.from_dict(state.to_dict()))
    resumed.add(chunks, [""])
    assert rows(resumed.take(10)[0]) == rows(merge.take(10)[0]) == [("", 0, 3, 5), ("", 4, 0, 2)]


def test_rows_that_are_passed_over_count_once_they_are_behind_the_position() -> None:
    """A state before them does not have them, so a resumed merge counts them once."""
    chunks = [chunk("", 0, 10, 11), chunk("", 1, 1, 2, 12)]
    merge = TimeMerge(StreamState(), disorder_ms=0, idle_s=IDLE_S, since_ms=5, now=Clock())
    merge.add(chunks, [""])
    _, state, _ = merge.take(2)
    assert state.passed_rows == 0 and state.positions == {"": (1, 0)}
    resumed = TimeMerge(state, disorder_ms=0, idle_s=IDLE_S, since_ms=5, now=Clock())
    resumed.add(chunks[1:], [""])
    parts, state, _ = resumed.take(5)
    assert rows(parts) == [("", 1, 2, 3)] and state.passed_rows == 2


def test_times_that_are_missing_are_neither_late_nor_a_clock() -> None:
    merge, _ = merge_of()
    merge.add([chunk("", 0, 10, -1, 12)], [""])
    _, state, clock_ms = merge.take(3)
    assert clock_ms == 12 and state.late_rows == 0
