"""The order in which requests reach the ranks, each of them exactly once per epoch.

An epoch is one sequence of requests, fixed by (seed, epoch) alone: row groups in shuffled order, taken in windows of a
few, whose rows are shuffled together; or, without shuffling, the requests in time order. `position` says how that
sequence falls to ranks. A rank that walks through a share of its own decodes no more than that share and the windows at
its two ends. In time order all ranks decode all row groups, for each step is cut among them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.dataset import RequestDataset, RowGroup
from easq_rec.data.position import Interval, Intervals, Position, share

Piece = tuple[RequestColumns, Rows]
"""Decoded requests, and which of them in which order; -1 stands for one that is in quarantine."""
Decoded = tuple[RequestColumns, Rows]
"""A row group as `RequestDataset.read_placed` gives it."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One rank's requests of one step."""

    requests: RequestColumns
    after: Position
    """The stream's position once this step is trained."""
    clock_ms: int
    """What this step tells of the stream's time, the same on all ranks: see `RequestReader.read`."""


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A few row groups, whose requests take a stretch of the epoch's sequence."""

    number: int
    groups: list[RowGroup]
    start: int
    end: int
    clock_ms: int
    """Latest end of a row group in it."""


class RequestReader:
    """Seeded, resumable stream of request slices; each request of an epoch exactly once over the ranks.

    Args:
        dataset: what is read.
        batch_size: requests per step and rank.
        shuffle_row_groups: size of a shuffle window; None: the sequence is in time order.
        spread: each rank walks through a share of its own; False: each step is cut among the ranks.
        workers: threads that decode one window ahead; 0: decoded when it is asked for. The order is the same.
    """

    def __init__(
        self,
        dataset: RequestDataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_row_groups: int | None = None,
        spread: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self._dataset = dataset
        self._rank = rank
        self._world_size = world_size
        self._batch_size = batch_size
        self._window = shuffle_row_groups
        self._spread = spread
        self._seed = seed
        self._workers = workers

    @property
    def fingerprint(self) -> str:
        """Changes with the dataset's files and period: a position belongs to one sequence."""
        return self._dataset.fingerprint

    @property
    def steps_per_epoch(self) -> int:
        """The same for every rank; the last step may be short, down to no request at all on some ranks."""
        return math.ceil(len(self._dataset) / (self._batch_size * self._world_size))

    def read(self, position: Position, *, epochs: int) -> Iterator[Slice]:
        """Slices from `position` to the end of epoch number `epochs`; none of a dataset without requests.

        `clock_ms` of a slice in order is the latest timestamp of the step, over all ranks. Of a spread one it is the
        latest end of a row group in the windows that the step reads from, which every rank knows of all others: up to a
        row group ahead of what was delivered, where the order is not that of time anyway.

        Raises:
            ValueError: the position comes from a longer epoch, so from other data.
        """
        total = len(self._dataset)
        left = position.left(total)
        if left and left[-1][1] > total:
            raise ValueError(f"the position stands before request {left[-1][1]} of an epoch that has {total}")
        while total and position.epoch < epochs:
            yield from self._read_epoch(position.epoch, left)
            position, left = Position(epoch=position.epoch + 1), ((0, total),)

    def _read_epoch(self, epoch: int, left: tuple[Interval, ...]) -> Iterator[Slice]:
        intervals, windows = Intervals(left), self._windows(epoch)
        count, step = len(intervals), self._batch_size * self._world_size
        begin, end = share(count, self._rank, self._world_size) if self._spread else (0, count)
        rows = _Rows(self._pieces(epoch, windows, intervals.cut(begin, end)), self._dataset.nothing)
        clock = _Clock(windows, intervals, self._world_size)
        for done in range(0, count, step):
            take = min(step, count - done)
            mine = share(take, self._rank, self._world_size)
            after = Position(
                epoch=epoch, dealt=left, delivered=done + take, ranks=self._world_size, spread=self._spread
            )
            if self._spread:
                clock_ms = clock.of_step(done, take)
                requests = rows.gather(rows.take(mine[1] - mine[0]))
            else:
                whole = rows.take(take)
                clock_ms = max(_latest(columns, found) for columns, found in whole)
                requests = rows.gather(_cut(whole, mine))
            yield Slice(requests=requests, after=after, clock_ms=clock_ms)

    def _windows(self, epoch: int) -> list[_Window]:
        """The epoch's windows in the order of its sequence."""
        groups = [group for group in self._dataset.row_groups if group.kept]
        if self._window is not None:
            # The second number keeps the random streams of the project's parts apart.
            order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(groups))
            groups = [groups[index] for index in order]
        size = self._window or 1
        windows, start = [], 0
        for number, begin in enumerate(range(0, len(groups), size)):
            members = groups[begin : begin + size]
            end = start + sum(group.kept for group in members)
            clock_ms = max(group.last_ms for group in members)
            windows.append(_Window(number=number, groups=members, start=start, end=end, clock_ms=clock_ms))
            start = end
        return windows

    def _pieces(self, epoch: int, windows: list[_Window], parts: list[Interval]) -> Iterator[Piece]:
        """The decoded windows under some intervals of the sequence, with the rows that lie in these."""
        ends = np.array([window.end for window in windows])
        wanted = []
        for start, end in parts:
            first, last = np.searchsorted(ends, [start, end - 1], side="right")
            wanted += [(windows[index], start, end) for index in range(first, last + 1)]
        for window, groups in self._decoded([window for window, _, _ in wanted]):
            _, start, end = wanted.pop(0)
            rows = _placed(groups)
            if self._window is not None:
                np.random.default_rng([self._seed, 2, epoch, window.number]).shuffle(rows)
            rows = rows[max(start - window.start, 0) : end - window.start]
            yield RequestColumns.concat([columns for columns, _ in groups]), rows

    def _decoded(self, windows: list[_Window]) -> Iterator[tuple[_Window, list[Decoded]]]:
        """The row groups of each window; with workers the next window is decoded while one is used."""
        read = self._dataset.read_placed
        if not self._workers:
            for window in windows:
                yield window, [read(group) for group in window.groups]
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        ahead: deque[tuple[_Window, list[Future[Decoded]]]] = deque()
        try:
            for window in windows:
                ahead.append((window, [pool.submit(read, group) for group in window.groups]))
                if len(ahead) > 1:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(window: _Window, groups: list[Future[Decoded]]) -> tuple[_Window, list[Decoded]]:
    return window, [group.result() for group in groups]


class _Rows:
    """Pieces as a stream from which any number of rows may be taken.

    Args:
        nothing: gives no requests with the stream's columns, for a rank that gets none.
    """

    def __init__(self, pieces: Iterator[Piece], nothing: Callable[[], RequestColumns]) -> None:
        self._pieces = pieces
        self._nothing = nothing
        self._pending: Piece | None = None

    def take(self, count: int) -> list[Piece]:
        """The next `count` rows."""
        taken: list[Piece] = []
        while count:
            columns, rows = self._pending if self._pending is not None else next(self._pieces)
            taken.append((columns, rows[:count]))
            self._pending = (columns, rows[count:]) if len(rows) > count else None
            count -= len(taken[-1][1])
        return taken

    def gather(self, pieces: list[Piece]) -> RequestColumns:
        """The rows of some pieces as one."""
        if not pieces:
            return self._nothing()
        return RequestColumns.concat([columns.take(rows[rows >= 0]) for columns, rows in pieces])


class _Clock:
    """The clock of a spread epoch: what every rank knows of what all of them read, from the files' footers."""

    def __init__(self, windows: list[_Window], intervals: Intervals, ranks: int) -> None:
        self._ends = np.array([window.end for window in windows], dtype=np.int64)
        self._clock_ms = np.array([window.clock_ms for window in windows], dtype=np.int64)
        self._intervals = intervals
        spans = [share(len(intervals), rank, ranks) for rank in range(ranks)]
        self._begin, self._end = np.array(spans, dtype=np.int64).T

    def of_step(self, done: int, take: int) -> int:
        """Latest end of a row group in the windows of a step that takes `take` requests after `done`, over ranks."""
        ranks = len(self._begin)
        low = self._begin + done // ranks
        last = done + take == len(self._intervals)
        high = self._end if last else low + take // ranks
        some = high > low
        first, final = (self._window(entries) for entries in (low[some], high[some] - 1))
        clock = max(int(self._clock_ms[first].max()), int(self._clock_ms[final].max()))
        for index in np.flatnonzero(final - first > 1):
            clock = max(clock, int(self._clock_ms[first[index] : final[index]].max()))
        return clock

    def _window(self, entries: Rows) -> Rows:
        return np.searchsorted(self._ends, self._intervals.at(entries), side="right")


def _placed(groups: list[Decoded]) -> Rows:
    """For each row of some row groups its place among their requests, one after the other."""
    rows, begin = [], 0
    for columns, placed in groups:
        rows.append(np.where(placed >= 0, placed + begin, -1))
        begin += len(columns)
    return np.concatenate(rows)


def _latest(columns: RequestColumns, rows: Rows) -> int:
    """Latest timestamp of some rows; 0 where all are in quarantine."""
    return int(columns.timestamp_ms.take(rows[rows >= 0]).max(initial=0))


def _cut(pieces: list[Piece], part: Interval) -> list[Piece]:
    """Rows number `part` of some pieces."""
    start, end = part
    found, begin = [], 0
    for columns, rows in pieces:
        mine = rows[max(start - begin, 0) : max(end - begin, 0)]
        if len(mine):
            found.append((columns, mine))
        begin += len(rows)
    return found
