"""When steps, checkpoints and packages are due, and that no partition is kept from delivering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from easq_rec.answers.running_counts import RunningCounts
from easq_rec.config.follow import Follow
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.stream.held_answers import HeldState
from easq_rec.data.stream.planner import Planner
from easq_rec.data.stream.source import Chunk, JournalEntry
from easq_rec.data.stream.state import FollowState

START = FollowState(held=HeldState(counts=RunningCounts(outcomes=0, by_pattern={})))


class Seconds:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Prepared:
    """A stream whose polls were prepared. A planner reads no chunk."""

    def __init__(self, partitions: Sequence[str], *polls: list[Chunk]) -> None:
        self.partitions = tuple(partitions)
        self.journal: tuple[JournalEntry, ...] = ()
        self.polls = list(polls)

    def seek(self, positions: Mapping[str, int], journal: Sequence[JournalEntry]) -> None:
        assert not positions

    def poll(self) -> list[Chunk]:
        return self.polls.pop(0) if self.polls else []

    def read(self, partition: str, offset: int) -> tuple[RequestColumns, Rows]:
        raise NotImplementedError

    def extend(self, journal: Sequence[JournalEntry]) -> None:
        raise NotImplementedError

    def release(self, positions: Mapping[str, int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def chunk(partition: str, offset: int, first_ms: int, rows: int) -> Chunk:
    return Chunk(partition=partition, offset=offset, time_ms=np.arange(first_ms, first_ms + rows))


def test_a_checkpoint_does_not_take_the_turn_of_a_package() -> None:
    """A package is due after its time, although nothing was trained since the last checkpoint."""
    clock, source = Seconds(), Prepared([""], [chunk("", 0, 0, 4)])
    config = Follow(source="here", poll_seconds=1e-3, packages="there", checkpoint_minutes=1, publish_minutes=10)
    planner = Planner(source, None, START, config, rows=4, now=clock)
    assert planner.next_plan(0).parts
    due = []
    for second in (0, 61, 130, 599, 601, 1_500):
        clock.now = second
        plan = planner.next_plan(0)
        due.append((plan.save, plan.publish))
    nothing = (False, False)
    assert due == [nothing, (True, False), nothing, nothing, (True, True), nothing]


def test_requests_that_wait_for_a_partition_do_not_stop_its_delivery() -> None:
    """However many there are: 300,000 requests of one partition arrive before the first of the other."""
    polls = [[chunk("a", number, 1_000 * number, 1_000)] for number in range(1, 301)]
    source = Prepared("ab", *polls, [chunk("b", 0, 0, 8), chunk("b", 1, 10**9, 8)])
    planner = Planner(source, None, START, Follow(source="here", idle_seconds=1e9), rows=8, now=Seconds())
    (part,) = planner.next_plan(0).parts
    assert (part.partition, part.offset, part.end) == ("b", 0, 8)


def test_requests_that_do_not_fill_a_step_wait_so_long_and_no_longer() -> None:
    clock, source = Seconds(), Prepared([""], [chunk("", 0, 0, 3)])
    planner = Planner(source, None, START, Follow(source="here", wait_seconds=5), rows=8, now=clock)
    assert not planner.next_plan(0).parts
    clock.now = 4.9
    assert not planner.next_plan(0).parts
    clock.now = 5.0
    (part,) = planner.next_plan(0).parts
    assert part.end == 3
