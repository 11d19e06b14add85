"""The order of requests: the ranks together get each request exactly once per epoch, also in resumed runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.dataset import Period, RequestDataset, RowGroup
from easq_rec.data.layout import Layout
from easq_rec.data.order import RequestReader, Slice
from easq_rec.data.position import StreamPosition
from easq_rec.data.quarantine import Quarantine
from tests.data.builders import SCHEMA, Row, ids, make_rows, open_dataset, to_table, write_dataset, write_file

START = StreamPosition()


@dataclass(frozen=True)
class Case:
    """A dataset and a way to read it."""

    dataset: RequestDataset
    requests: int
    window: int | None
    seed: int
    spread: bool = False
    workers: int = 0
    user_requests: int = 1

    def reader(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> RequestReader:
        return RequestReader(
            self.dataset,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            shuffle_row_groups=self.window,
            user_requests=self.user_requests,
            spread=self.spread,
            seed=self.seed,
            workers=self.workers,
        )

    def steps(
        self, batch_size: int, world_size: int = 1, *, start: StreamPosition = START, epochs: int = 1
    ) -> list[list[Slice]]:
        """Per step, the slices of all ranks; fails if ranks take unequal numbers of steps."""
        ranks = [self.reader(batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
        return list(zip(*(reader.read(start, epochs=epochs) for reader in ranks), strict=True))


def delivered(steps: list[list[Slice]]) -> list[list[int]]:
    """Per step, the request ids of all ranks, in rank order."""
    return [list(itertools.chain.from_iterable(ids(part.requests) for part in step)) for step in steps]


def flat(steps: list[list[Slice]]) -> list[int]:
    return list(itertools.chain.from_iterable(delivered(steps)))


def by_rank(steps: list[list[Slice]]) -> list[list[tuple[list[int], int]]]:
    """Per step and rank, request ids and clock."""
    return [[(ids(part.requests), part.clock_ms) for part in step] for step in steps]


def restored(position: StreamPosition) -> StreamPosition:
    """The position after a round trip through the JSON of a checkpoint."""
    return StreamPosition.from_dict(json.loads(json.dumps(position.to_dict())))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3)
windows = st.one_of(st.none(), st.integers(1, 4))


@st.composite
def cases(draw: st.DrawFn, folder: Path) -> Case:
    requests, files, groups = draw(st.integers(1, 30)), draw(sizes), draw(sizes)
    name = f"{requests} {files} {groups}"
    if not (folder / name).exists():
        # Rows in time order, with ties; each request id is the position of its row.
        write_dataset(folder / name, ROWS[:requests], file_sizes=files, row_group_sizes=groups)
    window = draw(windows)
    return Case(
        open_dataset(folder / name, max_history=0),
        requests,
        window,
        draw(st.integers(0, 3)),
        spread=draw(st.booleans()),
        workers=draw(st.sampled_from([0, 0, 1, 3])),
        user_requests=draw(st.integers(1, 4)) if window is not None else 1,
    )


ROWS: list[Row] = make_rows(np.random.default_rng(0), 30)
for _row in ROWS:
    _row["candidates"] = _row["candidates"][:1]
    _row["user_id"] %= 5

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(few, max_examples=60)
@given(data=st.data())
def test_runs_resumed_with_other_numbers_of_ranks_deliver_every_request_once(folder: Path, data: st.DataObject) -> None:
    """An epoch consists of up to four runs, which differ in number of ranks, batch size and workers."""
    case = data.draw(cases(folder))
    position, seen = StreamPosition(epoch=data.draw(st.integers(0, 2))), list[int]()
    runs = data.draw(
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(0, 2)), min_size=1, max_size=4)
    )
    for world_size, batch_size, workers in runs:
        left = case.requests - len(seen)
        run = dataclasses.replace(case, workers=workers)
        steps = run.steps(batch_size, world_size, start=restored(position), epochs=position.epoch + 1)
        assert len(steps) == math.ceil(left / (batch_size * world_size)), "no more steps than necessary"
        assert Counter(seen + flat(steps)) == Counter(range(case.requests))
        for step in steps:
            lengths = [len(part.requests) for part in step]
            assert max(lengths) - min(lengths) <= 1, "equal shares"
            assert len({json.dumps(part.after.to_dict()) for part in step}) == 1, "one position for all ranks"
        assert all(len(part.requests) == batch_size for step in steps[:-1] for part in step)
        stop = data.draw(st.integers(0, len(steps)))
        if stop:
            position, seen = steps[stop - 1][0].after, seen + flat(steps[:stop])


@few
@given(data=st.data())
def test_runs_resumed_with_the_same_number_of_ranks_deliver_the_same_requests(
    folder: Path, data: st.DataObject
) -> None:
    """Every rank gets the same requests in the same order, with the same clock, also across epochs."""
    case = data.draw(cases(folder))
    world_size, batch_size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    whole = case.steps(batch_size, world_size, epochs=2)
    assert len(whole) == 2 * case.reader(batch_size, world_size=world_size).steps_per_epoch
    first = data.draw(st.integers(1, len(whole)))
    second = data.draw(st.integers(first, len(whole)))
    rest = case.steps(batch_size, world_size, start=restored(whole[first - 1][0].after), epochs=2)
    assert by_rank(rest) == by_rank(whole[first:])
    if second > first:
        again = case.steps(batch_size, world_size, start=restored(rest[second - first - 1][0].after), epochs=2)
        assert by_rank(again) == by_rank(whole[second:])


@few
@given(data=st.data())
def test_the_order_does_not_depend_on_workers(folder: Path, data: st.DataObject) -> None:
    case = data.draw(cases(folder))
    world_size, batch_size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    orders = [
        by_rank(dataclasses.replace(case, workers=workers).steps(batch_size, world_size)) for workers in (0, 1, 4)
    ]
    assert orders[0] == orders[1] == orders[2]


@few
@given(data=st.data())
def test_without_spread_ranks_share_the_batch_of_a_single_rank(folder: Path, data: st.DataObject) -> None:
    case = dataclasses.replace(data.draw(cases(folder)), spread=False)
    world_size, batch_size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    together = case.steps(world_size * batch_size)
    apart = case.steps(batch_size, world_size)
    assert delivered(apart) == delivered(together)
    for whole, parts in zip(together, apart, strict=True):
        (whole_slice,) = whole
        assert {part.clock_ms for part in parts} == {whole_slice.clock_ms}
        assert whole_slice.clock_ms == whole_slice.requests.timestamp_ms.max()


@few
@given(data=st.data())
def test_spread_ranks_read_contiguous_shares_of_one_sequence(folder: Path, data: st.DataObject) -> None:
    case = dataclasses.replace(data.draw(cases(folder)), spread=True)
    world_size = data.draw(st.integers(1, 4))
    sequence = flat(case.steps(case.requests))
    steps = case.steps(data.draw(st.integers(1, 7)), world_size)
    walked = [id_ for rank in range(world_size) for step in steps for id_ in ids(step[rank].requests)]
    assert walked == sequence


@few
@given(data=st.data())
def test_the_clock_of_spread_ranks_is_the_latest_time_of_their_windows(folder: Path, data: st.DataObject) -> None:
    case = dataclasses.replace(data.draw(cases(folder)), spread=True)
    world_size = data.draw(st.integers(1, 4))
    sequence = flat(case.steps(case.requests))
    ends = {group: ROWS[max(ids(case.dataset.read(group)))]["timestamp_ms"] for group in case.dataset.row_groups}
    windows = case.reader(1)._windows(0)
    assert [window.start for window in windows] == [0, *(window.end for window in windows[:-1])]
    clock = [max(ends[group] for group in w.groups) for w in windows for _ in range(w.start, w.end)]
    for step in case.steps(data.draw(st.integers(1, 7)), world_size):
        places = [[sequence.index(row) for row in ids(part.requests)] for part in step]
        expected = max(clock[place] for part in places for place in part)
        assert {part.clock_ms for part in step} == {expected}


@settings(few, max_examples=10)
@given(data=st.data())
def test_time_order_without_shuffle(folder: Path, data: st.DataObject) -> None:
    case = dataclasses.replace(data.draw(cases(folder)), window=None, spread=False, user_requests=1)
    steps = case.steps(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4)), epochs=2)
    assert flat(steps) == [*range(case.requests)] * 2
    steps_per_epoch = len(steps) // 2
    clock = [step[0].clock_ms for step in steps[:steps_per_epoch]]
    assert clock == sorted(clock)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> RequestDataset:
    rows = make_rows(np.random.default_rng(1), 60)
    return open_dataset(write_dataset(tmp_path_factory.mktemp("shuffled"), rows, file_sizes=[20], row_group_sizes=[5]))


def test_the_order_is_a_function_of_seed_and_epoch(shuffled: RequestDataset) -> None:
    def order(seed: int, epoch: int, window: int = 3) -> list[int]:
        case = Case(shuffled, 60, window, seed)
        return flat(case.steps(8, start=StreamPosition(epoch=epoch), epochs=epoch + 1))

    orders = {(seed, epoch): order(seed, epoch) for seed in range(2) for epoch in range(3)}
    assert orders == {(seed, epoch): order(seed, epoch) for seed in range(2) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 6
    assert order(0, 0) != order(0, 0, window=4)
    both = flat(Case(shuffled, 60, 3, 1).steps(8, epochs=2))
    assert both == orders[1, 0] + orders[1, 1]


def test_a_window_is_a_few_row_groups_shuffled_together(shuffled: RequestDataset) -> None:
    order = flat(Case(shuffled, 60, 4, 0).steps(60))
    windows = [order[begin : begin + 20] for begin in range(0, 60, 20)]
    groups = [sorted({request // 5 for request in window}) for window in windows]
    assert [len(window) for window in groups] == [4, 4, 4] and groups != [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # Row groups are mixed: in a random order, about four of five pairs of neighbours are from different row groups.
    neighbours = [a // 5 != b // 5 for window in windows for a, b in itertools.pairwise(window)]
    assert np.mean(neighbours) > 0.6
    one = flat(Case(shuffled, 60, 1, 0).steps(60))
    runs = [one[begin : begin + 5] for begin in range(0, 60, 5)]
    assert all(len({request // 5 for request in run}) == 1 for run in runs)
    assert sum(run != sorted(run) for run in runs) >= 9
    next_epoch = flat(Case(shuffled, 60, 1, 0).steps(60, start=StreamPosition(epoch=1), epochs=2))
    assert [request // 5 for request in next_epoch] != [request // 5 for request in one], "row groups are shuffled, too"


def test_resuming_does_not_read_finished_windows(shuffled: RequestDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    read = shuffled.read_with_positions
    monkeypatch.setattr(shuffled, "read_with_positions", lambda group: opened.append(group.index) or read(group))  # type: ignore[func-returns-value]
    steps = Case(shuffled, 60, 3, 0).steps(10, start=StreamPosition(delivered=45))
    assert len(flat(steps)) == 15 and len(opened) == 3


@few
@given(data=st.data())
def test_bad_rows_go_to_quarantine_and_all_others_are_delivered_once(folder: Path, data: st.DataObject) -> None:
    """This also holds if the run resumes with another number of ranks, because a quarantined row keeps its position."""
    case = data.draw(cases(folder))
    bad = set(data.draw(st.lists(st.integers(0, case.requests - 1), max_size=4)))
    rows = [{**row, "user": {**row["user"], "region": 77}} if row["request_id"] in bad else row for row in ROWS]
    sizes_ = data.draw(st.lists(st.integers(3, 9), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as name:
        directory = write_dataset(Path(name) / "requests", rows[: case.requests], row_group_sizes=sizes_)
        quarantine = Quarantine(Path(name) / "quarantine")
        dataset = RequestDataset(directory, Layout.of(SCHEMA), max_history=0, quarantine=quarantine)
        assume(all(any(row not in bad for row in range(start, end)) for start, end in bounds(dataset)))
        run = dataclasses.replace(case, dataset=dataset)
        steps = run.steps(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4)))
        stop = data.draw(st.integers(1, len(steps)))
        after = steps[stop - 1][0].after
        rest = run.steps(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4)), start=after)
        good = Counter(set(range(case.requests)) - bad)
        assert Counter(flat(steps)) == Counter(flat(steps[:stop]) + flat(rest)) == good
        assert quarantine.count() == len(bad)


def bounds(dataset: RequestDataset) -> list[tuple[int, int]]:
    """First row and end of each row group."""
    ends = list(itertools.accumulate(group.rows for group in dataset.row_groups))
    return list(zip([0, *ends], ends, strict=False))


@few
@given(data=st.data())
def test_requests_of_a_user_are_brought_together_within_windows(folder: Path, data: st.DataObject) -> None:
    """A window has the same requests as without, and each user's are in runs in time order."""
    case = data.draw(cases(folder))
    case = dataclasses.replace(case, window=case.window or 2, user_requests=data.draw(st.integers(2, 4)))
    together = flat(case.steps(5))
    apart = flat(dataclasses.replace(case, user_requests=1).steps(5))
    for window in case.reader(1)._windows(0):
        mine, theirs = (order[window.start : window.end] for order in (together, apart))
        assert sorted(mine) == sorted(theirs)
        for user in {ROWS[request]["user_id"] for request in mine}:
            rows = sorted(request for request in mine if ROWS[request]["user_id"] == user)
            pieces = [rows[a : a + case.user_requests] for a in range(0, len(rows), case.user_requests)]
            places = [mine.index(piece[0]) for piece in pieces]
            assert all(mine[at : at + len(piece)] == piece for at, piece in zip(places, pieces, strict=True))


def test_time_order_cannot_bring_requests_together(shuffled: RequestDataset) -> None:
    with pytest.raises(ValueError, match="user_requests=2 needs a shuffled order"):
        RequestReader(shuffled, batch_size=4, user_requests=2)


def test_an_empty_dataset_has_no_steps(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, []))
    reader = RequestReader(dataset, batch_size=4)
    assert reader.steps_per_epoch == 0
    endless = np.iinfo(np.int64).max
    assert list(reader.read(StreamPosition(), epochs=endless)) == []


def test_a_position_of_a_longer_epoch_is_refused(shuffled: RequestDataset) -> None:
    """The position belongs to other data: a resumed run would silently leave out requests."""
    reader = RequestReader(shuffled, batch_size=8)
    assert list(reader.read(StreamPosition(delivered=60), epochs=1)) == []
    with pytest.raises(ValueError, match=r"at request 61 of an epoch that has 60"):
        next(reader.read(StreamPosition(dealt=((3, 61),)), epochs=2))


def test_a_spread_rank_decodes_only_its_share(shuffled: RequestDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of ranks, all ranks together decode each row group once, except at the borders of shares."""
    opened: list[RowGroup] = []
    read = shuffled.read_with_positions
    monkeypatch.setattr(shuffled, "read_with_positions", lambda group: opened.append(group) or read(group))  # type: ignore[func-returns-value]
    Case(shuffled, 60, 1, 0, spread=True).steps(5, 4)
    assert Counter(opened) == Counter(shuffled.row_groups)
    opened.clear()
    Case(shuffled, 60, 1, 0, spread=True).steps(5, 7)
    assert len(opened) <= 12 + 6
    opened.clear()
    Case(shuffled, 60, 1, 0, spread=False).steps(5, 4)
    assert len(opened) == 4 * 12, "without spread, every rank decodes all row groups"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_stay_one_window_ahead_and_end_with_the_reader(
    shuffled: RequestDataset, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    opened: list[RowGroup] = []
    read = shuffled.read_with_positions
    monkeypatch.setattr(shuffled, "read_with_positions", lambda group: opened.append(group) or read(group))  # type: ignore[func-returns-value]
    stream = Case(shuffled, 60, 2, 0, workers=workers).reader(1).read(StreamPosition(), epochs=5)
    for taken in range(1, 31):
        next(stream)
        window = math.ceil(taken / 10)
        assert len(opened) <= 2 * (window + (workers > 0)), "memory is bounded by two windows"
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_an_error_in_a_worker_is_raised_in_place_of_its_window(
    shuffled: RequestDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, bad = shuffled.read_with_positions, shuffled.row_groups[7]

    def failing(group: RowGroup) -> tuple[RequestColumns, Rows]:
        if group == bad:
            raise ValueError("row group 7 is broken")
        return read(group)

    monkeypatch.setattr(shuffled, "read_with_positions", failing)
    for workers in (0, 2):
        stream = Case(shuffled, 60, None, 0, workers=workers).reader(5).read(StreamPosition(), epochs=1)
        assert len(list(itertools.islice(stream, 7))) == 7
        with pytest.raises(ValueError, match="row group 7 is broken"):
            next(stream)


def test_time_order_requires_row_groups_in_time_order(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(1), 20)
    open_dataset(write_dataset(tmp_path / "sorted", rows, row_group_sizes=[5])).check_time_order()
    directory = write_dataset(tmp_path / "turned", [*rows[10:], *rows[:10]], file_sizes=[10], row_group_sizes=[5])
    dataset = open_dataset(directory)
    file = re.escape(str(directory / "part=00" / "0001.parquet"))
    begins = f"begins at {rows[0]['timestamp_ms']}, before the previous row group"
    with pytest.raises(ValueError, match=f"^{file}, row group 0: {begins} .*data.shuffle=False"):
        dataset.check_time_order()
    late = Period(start_ms=rows[10]["timestamp_ms"], end_ms=2**62)
    open_dataset(directory, period=late).check_time_order()


def test_different_datasets_have_different_fingerprints(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(1), 20)

    def fingerprint(name: str, rows: list[Row], *, period: Period | None = None, size: int = 5) -> str:
        return open_dataset(write_dataset(tmp_path / name, rows, row_group_sizes=[size]), period=period).fingerprint

    first = fingerprint("a", rows)
    assert fingerprint("moved", rows) == first
    grown = write_dataset(tmp_path / "grown", rows, row_group_sizes=[5])
    write_file(grown / "part=01" / "0.parquet", to_table(rows[:1]))
    others = [
        open_dataset(grown).fingerprint,
        fingerprint("fewer", rows[:-1]),
        fingerprint("groups", rows, size=4),
        fingerprint("changed", [*rows[:-1], {**rows[-1], "candidates": rows[-1]["candidates"] * 9}]),
        fingerprint("period", rows, period=Period(start_ms=0, end_ms=rows[9]["timestamp_ms"])),
    ]
    assert len({first, *others}) == 6
