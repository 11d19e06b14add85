"""Training batches and the loader states between them: training resumes exactly at a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from easq_rec.config import Replay
from easq_rec.data.batch import RequestBatch
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import EncodedRequests
from easq_rec.data.loader import LoaderState, TrainLoader
from easq_rec.data.order import RequestReader
from easq_rec.data.position import StreamPosition
from easq_rec.data.replay import AnswerReplay, ReplayState
from tests.data.builders import (
    SCHEMA,
    arrow_schema,
    make_answers,
    make_rows,
    open_dataset,
    read_answers,
    to_table,
    write_dataset,
    write_file,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """23 requests, 12 of them answered."""

    requests: RequestDataset
    answers: EncodedRequests | None

    def loader(
        self,
        *,
        aligned: bool = True,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        max_replays: int = 7,
        prefetch: int = 0,
        align_every: int = 1,
        draws: bool = True,
    ) -> TrainLoader:
        """A loader as a new process would build it."""
        reader = RequestReader(
            self.requests,
            batch_size=4,
            rank=rank,
            world_size=world_size,
            shuffle_row_groups=2 if shuffle else None,
            spread=shuffle,
            seed=3,
            workers=1 if prefetch else 0,
        )
        replay = None
        if aligned:
            config = Replay(answers_per_step=2, max_replays=max_replays)
            replay = AnswerReplay(
                self.answers,
                config,
                until_ms=2**62,
                ranked=(0, 2),
                slates=True,
                seed=3,
                rank=rank,
                world_size=world_size,
            )
        return TrainLoader(SCHEMA, reader, replay, align_every=align_every, draws=draws, prefetch=prefetch)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("loader")
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 23)
    answered = make_answers(rng, rows[::2])
    requests = write_dataset(folder / "requests", rows, file_sizes=[9], row_group_sizes=[4, 2])
    answers = write_dataset(folder / "answers", answered, schema=arrow_schema(answers=True))
    return Data(open_dataset(requests), read_answers(answers))


def restored(state: LoaderState) -> LoaderState:
    """The state after a round trip through the JSON of a checkpoint."""
    return LoaderState.from_dict(json.loads(json.dumps(state.to_dict())))


def meaning(state: LoaderState) -> dict[str, object]:
    """The content of a state, independent of how requests were distributed."""
    return {**state.to_dict(), "position": (state.position.epoch, state.position.left(23))}


def assert_same_batch(batch: RequestBatch, other: RequestBatch) -> None:
    """Compares all fields bit for bit, including the keys."""
    for field in dataclasses.fields(batch):
        one, two = getattr(batch, field.name), getattr(other, field.name)
        if isinstance(one, KeyedJaggedTensor):
            assert one.keys() == two.keys()
            assert torch.equal(one.values(), two.values()) and torch.equal(one.lengths(), two.lengths()), field.name
        elif isinstance(one, Tensor):
            assert torch.equal(one, two), field.name
        elif field.name == "keys":
            for key in dataclasses.fields(one):
                assert getattr(one, key.name).tolist() == getattr(two, key.name).tolist(), key.name
        else:
            assert one == two, field.name


def test_every_nth_step_aligns(data: Data) -> None:
    """Other steps have no answers; a resumed run keeps the interval."""
    loader = data.loader(align_every=3)
    whole = list(loader.batches(loader.start(), steps=13))
    assert [batch.aligned for batch, _ in whole] == [(step + 1) % 3 == 0 for step in range(13)]
    for batch, state in whole:
        assert (len(batch.answered_A) > 0) == batch.aligned or not state.replay.admitted
        assert batch.aligned or batch.total == batch.stream
        assert batch.answers_differ == (len(batch.answer_A.unique()) > 1)
    assert whole[-1][1].replay.replays.sum() > 0
    again = data.loader(align_every=3)
    resumed = list(again.batches(restored(whole[3][1]), steps=9))
    for (batch, _), (other, _) in zip(whole[4:], resumed, strict=True):
        assert_same_batch(batch, other)


def test_without_draws_answers_are_admitted_but_not_replayed(data: Data) -> None:
    """Aligned steps stay aligned, and as many answers are admitted as with draws."""
    drawing, counting = (data.loader(draws=draws) for draws in (True, False))
    drawn, counted = (list(loader.batches(loader.start(), steps=9)) for loader in (drawing, counting))
    for (batch, state), (other, bare) in zip(drawn, counted, strict=True):
        assert other.aligned and other.total == other.stream == batch.stream and not len(other.answered_A)
        assert not other.answers_differ
        assert (bare.replay.admitted, bare.replay.steps) == (state.replay.admitted, state.replay.steps)
        assert not bare.replay.replays.any()
    assert counted[-1][1].replay.admitted > 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 3), (2, 3)])
def test_every_state_resumes_the_same_batches(data: Data, shuffle: bool, rank: int, world_size: int) -> None:
    # Two epochs of 6 steps and one more step, or three and a half epochs of 2 steps.
    steps = 13 if world_size == 1 else 7
    first = data.loader(shuffle=shuffle, rank=rank, world_size=world_size)
    start = first.start()
    whole = list(first.batches(start, steps=steps))
    assert len(whole) == steps and whole[-1][1].position.epoch >= 2
    assert sum(batch.answered_A.numel() for batch, _ in whole) > 0
    for stop, state in enumerate([start, *(state for _, state in whole)]):
        # With and without prefetch: a state does not include prefetched batches.
        again = data.loader(shuffle=shuffle, rank=rank, world_size=world_size, prefetch=stop % 3)
        rest = list(again.batches(restored(state), steps=steps - stop))
        assert len(rest) == steps - stop
        for (batch, after), (other, other_after) in zip(whole[stop:], rest, strict=True):
            assert_same_batch(batch, other)
            assert meaning(after) == meaning(other_after)


def test_a_state_does_not_change_when_the_loader_continues(data: Data) -> None:
    loader = data.loader()
    seen: list[tuple[LoaderState, dict[str, object]]] = []
    for _, state in loader.batches(loader.start(), steps=10):
        seen.append((state, state.to_dict()))
    assert all(state.to_dict() == written for state, written in seen)
    assert len({json.dumps(written) for _, written in seen}) == 10


def test_a_loader_can_restart_from_an_earlier_state(data: Data) -> None:
    """The abandoned iterator has read ahead of that state, as the train pipeline does."""
    loader = data.loader()
    start = loader.start()
    whole = list(loader.batches(start, steps=8))
    ahead = list(islice(loader.batches(start, steps=8), 5))
    rest = loader.batches(ahead[2][1], steps=5)
    for (batch, _), (other, _) in zip(whole[3:], rest, strict=True):
        assert_same_batch(batch, other)


def test_all_ranks_have_the_same_state(data: Data) -> None:
    ranks = [data.loader(rank=rank, world_size=3) for rank in range(3)]
    for step in zip(*(loader.batches(loader.start(), steps=8) for loader in ranks), strict=True):
        assert len({json.dumps(state.to_dict()) for _, state in step}) == 1


def test_a_run_resumes_with_another_world_size(data: Data) -> None:
    """Each request is delivered once per epoch, although the number of ranks changes within the epoch."""

    def stream(batches: Iterator[tuple[RequestBatch, LoaderState]]) -> list[tuple[list[int], LoaderState]]:
        return [(batch.keys.request_id_R[: batch.stream.requests].tolist(), state) for batch, state in batches]

    single = data.loader()
    before = stream(single.batches(single.start(), steps=3))
    ranks = [data.loader(rank=rank, world_size=2) for rank in range(2)]
    after = [stream(loader.batches(restored(before[-1][1]), steps=2)) for loader in ranks]
    ids = [id_ for part in (before, *after) for ids, _ in part for id_ in ids]
    assert sorted(ids) == list(range(23))


def test_answers_are_admitted_when_the_stream_reaches_their_time(data: Data) -> None:
    assert data.answers is not None
    times = data.answers.candidates.column("answered_at_ms")
    answers = data.answers.candidates.column("answer")
    due = times[np.isin(answers, (0, 2))]
    loader = data.loader(shuffle=False, max_replays=1_000)
    clock = 0
    for batch, state in loader.batches(loader.start(), steps=6):
        stamps = data.requests.read_all().timestamp_ms  # type: ignore[union-attr]
        stream = batch.keys.request_id_R[: batch.stream.requests]
        clock = max(clock, int(stamps[stream].max()))
        assert state.clock_ms == clock
        assert state.replay.admitted == (due <= clock).sum()
        assert batch.answered_A.numel() == min(2, (due <= clock).sum())
    assert state.replay.admitted > 0


def test_the_clock_does_not_go_back_in_the_next_epoch(data: Data) -> None:
    loader = data.loader(shuffle=False)
    states = [state for _, state in loader.batches(loader.start(), steps=14)]
    clocks = [state.clock_ms for state in states]
    assert clocks == sorted(clocks) and clocks[5] == clocks[13]
    assert (states[5].position.epoch, states[5].position.left(23)) == (0, ())
    assert (states[6].position.epoch, states[6].position.left(23)) == (1, ((4, 23),))


def test_a_run_without_alignment_has_no_answers(data: Data) -> None:
    loader = data.loader(aligned=False)
    batches = list(loader.batches(loader.start(), steps=7))
    assert [batch.stream == batch.total for batch, _ in batches] == [True] * 7
    assert all(state.replay.replays.size == 0 and state.replay.steps == 0 for _, state in batches)
    (batch, _), *_ = loader.batches(restored(batches[2][1]), steps=4)
    assert_same_batch(batch, batches[3][0])


def test_zero_steps_give_no_batches(data: Data) -> None:
    loader = data.loader()
    assert list(loader.batches(loader.start(), steps=0)) == []


def test_the_state_round_trips_through_json() -> None:
    state = LoaderState(
        position=StreamPosition(epoch=3, dealt=((5, 2**40), (2**41, 2**42)), delivered=2**33, ranks=7, spread=True),
        data="a1b2",
        clock_ms=1_700_000_000_123,
        replay=ReplayState(admitted=2, steps=17, replays=np.array([5, 0, 1], np.int32), age_ms=12.5),
    )
    back = restored(state)
    assert (back.position, back.data, back.clock_ms) == (state.position, state.data, state.clock_ms)
    assert (back.replay.admitted, back.replay.steps, back.replay.age_ms) == (2, 17, 12.5)
    assert back.replay.replays.dtype == np.int32 and back.replay.replays.tolist() == [5, 0, 1]
    assert restored(LoaderState()).to_dict() == LoaderState().to_dict()


@pytest.mark.parametrize("change", ["one less", "another time", "another reply"])
def test_a_checkpoint_of_other_answers_is_refused(data: Data, change: str) -> None:
    """An equal number of other answers is refused too, because the replay counts would belong to other answers."""
    state = data.loader().start()
    assert data.answers is not None
    children = dict(data.answers.candidates.children)
    answer, time = children["answer"].copy(), children["answered_at_ms"].copy()  # type: ignore[union-attr]
    at = np.flatnonzero(np.isin(answer, (0, 2)))[3]
    match change:
        case "one less":
            answer[at] = -1
        case "another time":
            time[at] += 1
        case "another reply":
            answer[at] = 2 - answer[at]
    children |= {"answer": answer, "answered_at_ms": time}
    candidates = dataclasses.replace(data.answers.candidates, children=children)
    other = dataclasses.replace(data, answers=dataclasses.replace(data.answers, candidates=candidates))
    with pytest.raises(ValueError, match=r"the answers differ from those of the checkpoint \(\d+ then, \d+ now\)"):
        next(other.loader().batches(state, steps=1))


def test_a_checkpoint_of_other_requests_is_refused(data: Data, tmp_path: Path) -> None:
    """A file was added: a resumed run would deliver some requests twice and leave others out."""
    state = data.loader().start()
    rows = make_rows(np.random.default_rng(0), 23)
    folder = write_dataset(tmp_path, rows, file_sizes=[9], row_group_sizes=[4, 2])
    same = Data(open_dataset(folder), data.answers).loader()
    next(same.batches(state, steps=1))
    write_file(folder / "part=09" / "0.parquet", to_table(rows[:3]))
    grown = Data(open_dataset(folder), data.answers).loader()
    with pytest.raises(ValueError, match="training requests differ from those of the checkpoint"):
        next(grown.batches(state, steps=1))
