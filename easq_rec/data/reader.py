"""The order in which requests reach the ranks.

An epoch is one global sequence of requests, fixed by (seed, epoch) alone: row groups in shuffled order, taken in
windows of a few, whose rows are shuffled together. A step takes the next `batch_size * world_size` requests of that
sequence and every rank cuts its slice out of them, so that the sequence, and with it a position, is the same for any
number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.dataset import RequestDataset


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the stream stands: this many requests of this epoch have been delivered, over all ranks."""

    epoch: int = 0
    requests: int = 0


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One rank's requests of one step."""

    requests: RequestColumns
    after: Position
    """The stream's position once this step is trained."""
    last_ms: int
    """Latest timestamp among the step's requests, over all ranks."""


class RequestReader:
    """Seeded, resumable stream of request slices; each request of an epoch exactly once over the ranks.

    Args:
        dataset: what is read.
        batch_size: requests per step and rank.
        shuffle_row_groups: size of a shuffle window; None: time order.
    """

    def __init__(
        self,
        dataset: RequestDataset,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_row_groups: int | None = None,
        seed: int = 0,
    ) -> None:
        self._dataset = dataset
        self._rank = rank
        self._world_size = world_size
        self._step = batch_size * world_size
        self._window = shuffle_row_groups
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """The same for every rank; the last step may be short, down to no request at all on some ranks."""
        return math.ceil(len(self._dataset) / self._step)

    def read(self, position: Position, *, epochs: int) -> Iterator[Slice]:
        """Slices from `position` to the end of epoch number `epochs`; none of a dataset without requests.

        Raises:
            ValueError: the position lies behind the end of the epoch, so it comes from other data.
        """
        total = len(self._dataset)
        if position.requests > total:
            raise ValueError(
                f"the position stands at {position.requests} requests of an epoch that has {total}: "
                "resume with the data that the run started on, or start a new --run-dir"
            )
        while total and position.epoch < epochs:
            yield from self._read_epoch(position)
            position = Position(epoch=position.epoch + 1)

    def _read_epoch(self, position: Position) -> Iterator[Slice]:
        total, done = len(self._dataset), position.requests
        pending: list[tuple[RequestColumns, Rows]] = []
        for columns, rows in self._windows(position.epoch, skip=done):
            pending.append((columns, rows))
            while sum(len(rows) for _, rows in pending) >= min(self._step, total - done) > 0:
                take = min(self._step, total - done)
                pieces, pending = _split(pending, take)
                done += take
                yield self._cut(pieces, take, Position(epoch=position.epoch, requests=done))

    def _cut(self, pieces: list[tuple[RequestColumns, Rows]], count: int, after: Position) -> Slice:
        """This rank's even share of a step's requests."""
        start = count * self._rank // self._world_size
        end = count * (self._rank + 1) // self._world_size
        mine, begin = [], 0
        for columns, rows in pieces:
            mine.append(columns.take(rows[max(start - begin, 0) : max(end - begin, 0)]))
            begin += len(rows)
        last = max(int(columns.timestamp_ms[rows].max()) for columns, rows in pieces)
        return Slice(requests=RequestColumns.concat(mine), after=after, last_ms=last)

    def _windows(self, epoch: int, *, skip: int) -> Iterator[tuple[RequestColumns, Rows]]:
        """(columns, row order) per window, less the first `skip` rows of the epoch."""
        groups = [group for group in self._dataset.row_groups if group.kept]
        if self._window is not None:
            # The second number keeps the random streams of the project's parts apart.
            order = np.random.default_rng([self._seed, 1, epoch]).permutation(len(groups))
            groups = [groups[index] for index in order]
        size = self._window or 1
        for number, begin in enumerate(range(0, len(groups), size)):
            window = groups[begin : begin + size]
            count = sum(group.kept for group in window)
            if skip >= count:
                skip -= count
                continue
            columns = RequestColumns.concat([self._dataset.read(group) for group in window])
            rows = np.arange(count)
            if self._window is not None:
                np.random.default_rng([self._seed, 2, epoch, number]).shuffle(rows)
            yield columns, rows[skip:]
            skip = 0


def _split(
    pending: list[tuple[RequestColumns, Rows]], count: int
) -> tuple[list[tuple[RequestColumns, Rows]], list[tuple[RequestColumns, Rows]]]:
    """The first `count` rows of the pending windows, and what is left of them."""
    taken: list[tuple[RequestColumns, Rows]] = []
    rest: list[tuple[RequestColumns, Rows]] = []
    for columns, rows in pending:
        if count:
            taken.append((columns, rows[:count]))
        if len(rows) > count:
            rest.append((columns, rows[count:]))
        count = max(count - len(rows), 0)
    return taken, rest
