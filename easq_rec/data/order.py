"""The order in which requests reach the ranks, each request exactly once per epoch.

An epoch is one sequence of requests, which depends only on (seed, epoch): row groups in shuffled order, grouped into
windows whose rows are shuffled together, and in which requests of the same user may be brought together; or, without
shuffling, the requests in time order. `position` describes how the sequence is distributed over ranks. In a spread
epoch a rank decodes only its share and the windows at both ends of it. In time order every rank decodes all row groups,
because each step is divided among the ranks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from easq_rec.data.columns import Array, Rows, offsets_of
from easq_rec.data.dataset import RequestDataset, RowGroup
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.position import Interval, Intervals, StreamPosition, share
from easq_rec.data.user_runs import bring_together
from easq_rec.errors import UserError

Decoded = tuple[EncodedRequests, Rows]
"""A row group as returned by `RequestDataset.read_with_positions`, encoded."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One rank's requests of one step."""

    requests: EncodedRequests
    """Views into a window's columns."""
    after: StreamPosition
    """The stream's position after this step."""
    clock_ms: int
    """The stream's time after this step, equal on all ranks: see `RequestReader.read`."""


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Row groups whose requests form a contiguous part of the epoch's sequence."""

    number: int
    groups: list[RowGroup]
    start: int
    end: int
    clock_ms: int
    """Latest timestamp of its row groups."""


class RequestReader:
    """Seeded, resumable stream of request slices; each request of an epoch is delivered once over all ranks.

    Args:
        dataset: the requests.
        batch_size: requests per step and rank.
        shuffle_row_groups: row groups per shuffle window; None: the sequence is in time order.
        user_requests: requests of a user that a shuffled window brings together at most; 1: none. Without shuffling it
            must be 1.
        spread: each rank reads one contiguous share; False: each step is divided among the ranks.
        workers: threads that decode one window ahead; 0: decode on demand. The order does not depend on it.
    """

    def __init__(
        self,
        dataset: RequestDataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_row_groups: int | None = None,
        user_requests: int = 1,
        spread: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        if user_requests > 1 and shuffle_row_groups is None:
            raise UserError(f"user_requests={user_requests} needs a shuffled order: the sequence is in time order")
        self._dataset = dataset
        self._user_requests = user_requests
        self._rank = rank
        self._world_size = world_size
        self._batch_size = batch_size
        self._window = shuffle_row_groups
        self._spread = spread
        self._seed = seed
        self._workers = workers

    @property
    def fingerprint(self) -> str:
        """Depends on the dataset's files and period: a position is valid for one sequence."""
        return self._dataset.fingerprint

    @property
    def steps_per_epoch(self) -> int:
        """Equal on all ranks; in the last step some ranks may have fewer requests, or none."""
        return math.ceil(len(self._dataset) / (self._batch_size * self._world_size))

    def read(self, position: StreamPosition, *, epochs: int) -> Iterator[Slice]:
        """Slices from `position` to the end of epoch number `epochs`; none for a dataset without requests.

        In time order, `clock_ms` of a slice is the latest timestamp of the step, over all ranks. In a spread epoch it
        is the latest timestamp of the row groups in the windows that the step reads, which every rank knows for all
        ranks: it can be up to one row group ahead of the delivered requests.

        Raises:
            UserError: the position belongs to a longer epoch, so to other data.
        """
        total = len(self._dataset)
        left = position.left(total)
        if left and left[-1][1] > total:
            raise UserError(f"the position is at request {left[-1][1]} of an epoch that has {total}")
        while total and position.epoch < epochs:
            yield from self._read_epoch(position.epoch, left)
            position, left = StreamPosition(epoch=position.epoch + 1), ((0, total),)

    def _read_epoch(self, epoch: int, left: tuple[Interval, ...]) -> Iterator[Slice]:
        intervals, windows = Intervals(left), self._windows(epoch)
        count, step = len(intervals), self._batch_size * self._world_size
        begin, end = share(count, self._rank, self._world_size) if self._spread else (0, count)
        rows = _Rows(self._pieces(epoch, windows, intervals.cut(begin, end)))
        clock = _Clock(windows, intervals, self._world_size)
        for done in range(0, count, step):
            take = min(step, count - done)
            mine = share(take, self._rank, self._world_size)
            after = StreamPosition(
                epoch=epoch, dealt=left, delivered=done + take, ranks=self._world_size, spread=self._spread
            )
            if self._spread:
                clock_ms = clock.of_step(done, take)
                pieces = rows.take(mine[1] - mine[0])
            else:
                whole = rows.take(take)
                clock_ms = max(piece.latest_ms for piece in whole)
                pieces = _cut(whole, mine)
            requests = EncodedRequests.concat([piece.good for piece in pieces]) if pieces else self._nothing()
            yield Slice(requests=requests, after=after, clock_ms=clock_ms)

    def _windows(self, epoch: int) -> list[_Window]:
        """The epoch's windows in sequence order."""
        groups = [group for group in self._dataset.row_groups if group.kept]
        if self._window is not None:
            # The second number gives this part of the project a separate random stream.
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

    def _pieces(self, epoch: int, windows: list[_Window], parts: list[Interval]) -> Iterator[_Piece]:
        """The windows that overlap intervals of the sequence, each with its requests in sequence order."""
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
            if self._user_requests > 1:
                user, time = (_column(groups, name) for name in ("user_id", "timestamp_ms"))
                rows = bring_together(rows, user, time, self._user_requests)
            piece = _piece(groups, rows[max(start - window.start, 0) : end - window.start])
            # Frees the memory before the next window is read.
            del groups
            yield piece

    def _decoded(self, windows: list[_Window]) -> Iterator[tuple[_Window, list[Decoded]]]:
        """The decoded row groups of each window; workers decode the next window in advance."""
        read = self._read_group
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

    def _read_group(self, group: RowGroup) -> Decoded:
        requests, placed = self._dataset.read_with_positions(group)
        return encode(self._dataset.layout, requests), placed

    def _nothing(self) -> EncodedRequests:
        """Zero requests, for a rank that gets none."""
        return encode(self._dataset.layout, self._dataset.empty())


def _finished(window: _Window, groups: list[Future[Decoded]]) -> tuple[_Window, list[Decoded]]:
    return window, [group.result() for group in groups]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A contiguous run of the sequence."""

    requests: EncodedRequests
    places: Rows
    """Offset of each row of the run among the requests, and the end: a row in quarantine has length 0."""

    def __len__(self) -> int:
        return len(self.places) - 1

    def cut(self, begin: int, end: int) -> _Piece:
        """Rows `begin` to `end` of this run."""
        return _Piece(requests=self.requests, places=self.places[begin : end + 1])

    @property
    def good(self) -> EncodedRequests:
        """The requests of this run."""
        return self.requests.slice(int(self.places[0]), int(self.places[-1]))

    @property
    def latest_ms(self) -> int:
        """Latest timestamp of the requests; 0 if there are none."""
        return int(self.good.timestamp_ms.max(initial=0))


def _piece(groups: list[Decoded], rows: Rows) -> _Piece:
    """The rows of row groups in a given order; -1 is a row in quarantine."""
    requests = EncodedRequests.concat([requests for requests, _ in groups])
    places = offsets_of(rows >= 0)
    rows = rows[rows >= 0]
    # One copy in sequence order; batches are slices of it.
    in_order = len(rows) == len(requests) and bool((rows[1:] > rows[:-1]).all())
    return _Piece(requests=requests if in_order else requests.take(rows), places=places)


class _Rows:
    """A stream of pieces from which any number of rows can be taken."""

    def __init__(self, pieces: Iterator[_Piece]) -> None:
        self._pieces = pieces
        self._pending: _Piece | None = None

    def take(self, count: int) -> list[_Piece]:
        """The next `count` rows."""
        taken: list[_Piece] = []
        while count:
            piece = self._pending if self._pending is not None else next(self._pieces)
            taken.append(piece.cut(0, min(count, len(piece))))
            self._pending = piece.cut(count, len(piece)) if len(piece) > count else None
            count -= len(taken[-1])
        return taken


class _Clock:
    """The clock of a spread epoch, which every rank computes for all ranks from the files' footers."""

    def __init__(self, windows: list[_Window], intervals: Intervals, ranks: int) -> None:
        self._ends = np.array([window.end for window in windows], dtype=np.int64)
        self._clock_ms = np.array([window.clock_ms for window in windows], dtype=np.int64)
        self._intervals = intervals
        spans = [share(len(intervals), rank, ranks) for rank in range(ranks)]
        self._begin, self._end = np.array(spans, dtype=np.int64).T

    def of_step(self, done: int, take: int) -> int:
        """Latest timestamp of the windows that a step (`take` requests after `done`) reads, over all ranks."""
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
    """Position of each row of the row groups among their concatenated requests."""
    rows, begin = [], 0
    for columns, placed in groups:
        rows.append(np.where(placed >= 0, placed + begin, -1))
        begin += len(columns)
    return np.concatenate(rows)


def _column(groups: list[Decoded], name: str) -> Array:
    """A scalar of the concatenated requests of row groups."""
    return np.concatenate([requests.scalars[name] for requests, _ in groups])


def _cut(pieces: list[_Piece], part: Interval) -> list[_Piece]:
    """Rows `part` of the concatenated pieces."""
    start, end = part
    found, begin = [], 0
    for piece in pieces:
        first, last = max(start - begin, 0), min(end - begin, len(piece))
        if first < last:
            found.append(piece.cut(first, last))
        begin += len(piece)
    return found
