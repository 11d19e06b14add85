"""Batches of continuous training: those of a fixed log in time order, for any number of ranks, and exact on resume."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from easq_rec.config import Config
from easq_rec.config.follow import Follow
from easq_rec.config.losses import Losses
from easq_rec.config.recipes import recipe
from easq_rec.data.batch import RequestBatch
from easq_rec.data.layout import Layout
from easq_rec.data.sources import open_sources
from easq_rec.data.stream.folder import FolderSource
from easq_rec.data.stream.loader import FollowLoader, start_state
from easq_rec.data.stream.planner import Plan, Planner
from easq_rec.data.stream.state import FollowState
from tests.data.builders import SCHEMA, arrow_schema, make_answers, make_rows, write_dataset
from tests.data.test_loader import assert_same_batch

NOW = Follow(source="here", wait_seconds=1e-6, poll_seconds=1e-3)
"""Requests that do not fill a step are trained at once."""


def config_of(**replay: object) -> Config:
    """A run that learns from answers, evidence and rewards, with four requests per step and rank."""
    base = recipe("quickstart")
    schema = dataclasses.replace(
        SCHEMA, outcomes=tuple(dataclasses.replace(one, expected_evidence=1.0) for one in SCHEMA.outcomes)
    )
    return dataclasses.replace(
        base,
        schema=schema,
        model=dataclasses.replace(base.model, residual=False, satisfaction_weight=0.0, feature_dropout=0.0),
        losses=Losses(align_every=2).aligned_by(satisfaction=1.0, evidence=1.0),
        replay=dataclasses.replace(base.replay, answers_per_step=2, **replay),
        data=dataclasses.replace(base.data, shuffle=False, holdout=0.0, prefetch=0, workers=0),
        trainer=dataclasses.replace(base.trainer, batch_size=4),
        follow=NOW,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """53 requests in files of 9, and answers to every second, in files of 10."""
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 53)
    write_dataset(folder / "requests", rows, file_sizes=[9], row_group_sizes=[4, 2])
    answered = make_answers(rng, rows[::2], delay_ms=2_000)
    write_dataset(folder / "answers", answered, file_sizes=[10], row_group_sizes=[3], schema=arrow_schema(answers=True))
    return folder


def loader_of(
    config: Config,
    log: Path,
    state: FollowState | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    exchange: object = None,
) -> FollowLoader:
    """A loader as a new process would build it."""
    state = state or start_state(config)
    requests = FolderSource(log / "requests", Layout.of(config.schema), max_history=config.data.max_history)
    answers = FolderSource(log / "answers", Layout.of(config.schema, answers=True), max_history=config.data.max_history)
    planner = None
    if rank == 0:
        planner = Planner(requests, answers, state, config.follow, rows=config.trainer.batch_size * world_size)

    def alone(plan: Plan | None) -> Plan:
        assert plan is not None
        return plan

    return FollowLoader(
        config,
        requests,
        answers,
        state,
        exchange or alone,
        planner,
        rank=rank,
        world_size=world_size,  # type: ignore[arg-type]
    )


def all_of(loader: FollowLoader, steps: int | None = None) -> list[tuple[RequestBatch, FollowState]]:
    """The batches until a pause, or so many."""
    found = []
    for batch, followed in loader.batches():
        found.append((batch, followed.state))
        if len(found) == steps:
            break
    return found


def restored(state: FollowState) -> FollowState:
    """The state after a round trip through the files of a checkpoint."""
    return FollowState.of(json.loads(json.dumps(state.to_dict())), {k: v.copy() for k, v in state.arrays().items()})


@pytest.mark.parametrize("replay", [{}, {"capacity": 5}, {"balance": True, "max_replays": 2}])
def test_a_stream_gives_the_batches_of_the_fixed_log(log: Path, replay: dict[str, object]) -> None:
    """Requests, replayed answers, weights of evidence: all as a run in time order that has the whole log gets them."""
    config = config_of(**replay)
    sources = open_sources(config, log)
    steps = sources.reader.steps_per_epoch
    expected = list(sources.loader.batches(sources.loader.start(), steps=steps))
    found = all_of(loader_of(config, log))
    assert len(found) == steps
    for (batch, state), (other, known) in zip(found, expected, strict=True):
        assert_same_batch(batch, other)
        assert state.clock_ms == known.clock_ms
        assert state.replay.admitted == known.replay.admitted and state.replay.age_ms == known.replay.age_ms
    assert sum(len(batch.answered_A) for batch, _ in found) > 10
    assert sum(len(batch.evidence_E) for batch, _ in found) > 0


@pytest.mark.parametrize("step", [0, 1, 4, 9, 12])
def test_a_resumed_stream_goes_on_exactly(log: Path, step: int) -> None:
    config = config_of(capacity=7)
    whole = all_of(loader_of(config, log))
    state = restored(whole[step][1])
    rest = all_of(loader_of(config, log, state))
    assert len(rest) == len(whole) - step - 1
    for (batch, _), (other, _) in zip(rest, whole[step + 1 :], strict=True):
        assert_same_batch(batch, other)


def test_two_ranks_share_every_step(log: Path) -> None:
    """Each rank plans nothing or everything, and together they train each request once, in the order of one rank."""
    config = config_of()
    plans: list[Plan] = []
    lock = threading.Condition()

    def exchange_of(rank: int) -> object:
        seen = 0

        def exchange(plan: Plan | None) -> Plan:
            nonlocal seen
            with lock:
                if rank == 0:
                    assert plan is not None
                    # What other ranks get went through JSON.
                    plans.append(Plan.of_text(plan.to_text()))
                    assert plans[-1] == plan
                    lock.notify_all()
                    return plan
                lock.wait_for(lambda: len(plans) > seen, timeout=30)
                seen += 1
                return plans[seen - 1]

        return exchange

    both: dict[int, list[tuple[RequestBatch, FollowState]]] = {}

    def run(rank: int) -> None:
        both[rank] = all_of(loader_of(config, log, rank=rank, world_size=2, exchange=exchange_of(rank)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert len(both[0]) == len(both[1]) == 7
    ids = []
    for (one, state), (two, other) in zip(both[0], both[1], strict=True):
        ids += [*one.keys.request_id_R[: one.stream.requests], *two.keys.request_id_R[: two.stream.requests]]
        assert state.to_dict() == {**other.to_dict(), "request_files": state.to_dict()["request_files"]}
        for name, array in state.arrays().items():
            assert np.array_equal(array, other.arrays()[name]), name
    assert ids == list(range(53))


def test_a_checkpoint_of_two_ranks_continues_on_one(log: Path) -> None:
    config = config_of()
    wide = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, batch_size=8))
    state = restored(all_of(loader_of(wide, log), steps=3)[-1][1])
    ids = [
        i
        for batch, _ in all_of(loader_of(config, log, state))
        for i in batch.keys.request_id_R[: batch.stream.requests]
    ]
    assert ids == list(range(24, 53))


def test_files_that_arrive_later_are_read_later(log: Path, tmp_path: Path) -> None:
    """Whatever their names are; a resumed run keeps the order of discovery."""
    config = config_of()
    live = tmp_path / "live"
    files = sorted((log / "requests").rglob("*.parquet"))

    def commit(file: Path) -> None:
        target = live / file.relative_to(log)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)

    for file in files[2:4]:
        commit(file)
    loader = loader_of(config, live)
    first = all_of(loader)
    for file in files[:2]:
        commit(file)
    second = all_of(loader)
    ids = [i for batch, _ in first + second for i in batch.keys.request_id_R[: batch.stream.requests]]
    assert ids == [*range(18, 36), *range(18)]
    again = all_of(loader_of(config, live, restored(first[1][1])))
    assert [i for batch, _ in again for i in batch.keys.request_id_R[: batch.stream.requests]] == ids[8:]
    assert second[-1][1].requests.late_rows == 18


def test_a_run_does_not_end_before_its_last_requests_are_trained(log: Path) -> None:
    """Requests that do not fill a step wait longer than the run waits for new ones."""
    config = config_of()
    follow = dataclasses.replace(NOW, wait_seconds=2.5, stop_when_idle_seconds=0.5)
    loader = loader_of(dataclasses.replace(config, follow=follow), log)
    ids: list[int] = []
    while not loader.pause.ended:
        ids += [i for batch, _ in all_of(loader) for i in batch.keys.request_id_R[: batch.stream.requests]]
    assert ids == list(range(53))


def test_requests_before_a_time_are_passed_over_and_counted(log: Path) -> None:
    config = config_of()
    rows = [batch.keys.timestamp_ms_R[: batch.stream.requests] for batch, _ in all_of(loader_of(config, log))]
    times = np.concatenate(rows)
    later = dataclasses.replace(config, follow=dataclasses.replace(NOW, since_ms=int(times[21])))
    found = all_of(loader_of(later, log))
    ids = [i for batch, _ in found for i in batch.keys.request_id_R[: batch.stream.requests]]
    assert ids == list(range(21, 53))
    assert found[-1][1].requests.passed_rows == 21
