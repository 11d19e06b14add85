"""A model in the closed loop: the scores that it serves by, and when it is trained on which data."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from easq_rec.config import Config, World
from easq_rec.config.counts import without_counts
from easq_rec.config.serialization import to_dict
from easq_rec.config.variants import VARIANTS
from easq_rec.data import dataset
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout
from easq_rec.data.position import StreamPosition
from easq_rec.data.replay import AnswerReplay
from easq_rec.data.sources import Sources, open_sources
from easq_rec.evaluation.predict import batches, predict
from easq_rec.model.ranker import Ranker
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.serving.score import load_ranker
from easq_rec.tools.simulation import outcomes as world_outcomes
from easq_rec.tools.simulation.online import Day, Experiment, Stage
from easq_rec.tools.simulation.time_line import DAY_MS
from easq_rec.tools.simulation.world import ensure, simulate, to_table
from easq_rec.tools.studies import closed_loop, online_cell
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.closed_loop import ServedByModel, averages
from easq_rec.tools.studies.online_cell import DAY, WEEK
from easq_rec.training.loop import Trainer
from easq_rec.training.optim import Optimizers
from tests.builders import excite

EXPERIMENT = Experiment(warmup_days=0, pool=12, slate=6, requests=2)
STEPS = 8
"""Training steps on the log. The warm-up of the learning rate takes 5 of them."""


def small(variant: str = "easq") -> Config:
    """The config of a cell that takes a second or two."""
    config = base_config("small")
    world = World(requests=400, users=80, videos=120, history=6, density=5_000.0, days=1.0)
    schema, data = without_counts(config.schema), dataclasses.replace(config.data, max_history=6)
    config = dataclasses.replace(config, schema=schema, world=world, data=data)
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, batch_size=16, max_steps=STEPS))
    return config if variant == "easq" else VARIANTS[variant](config)


@pytest.fixture
def ranker() -> Ranker:
    found = Ranker(small(), torch.device("cpu"))
    excite(found)
    return found.eval()


@pytest.mark.parametrize("fuse", [None, 0.7])
def test_serving_gives_the_same_scores_as_evaluation(fuse: float | None, ranker: Ranker, tmp_path: Path) -> None:
    """Serving encodes requests without writing files, in batches whose size does not divide their number."""
    config = small()
    stage = Stage.of(config.world)
    part = list(simulate(stage.model))[-1]
    pq.write_table(to_table(part, stage.latents, answers=False), tmp_path / "part.parquet")
    written = RequestDataset(tmp_path, Layout.of(config.schema), max_history=6)
    stream = batches(written, config, truth=None)
    wanted = predict(ranker.score, stream, config, torch.device("cpu"), fuse=fuse).served_N
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, batch_size=7))
    found = ServedByModel(ranker.score, config, stage.latents, fuse=fuse)(part)
    assert found.shape == part.video.shape and found.std() > 0
    np.testing.assert_allclose(found.ravel(), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_averages_count_every_user_on_each_day() -> None:
    def day(users: int, **values: float) -> Day:
        zero = {field.name: 0 for field in dataclasses.fields(Day)}
        return Day(**(zero | values | {"users": users}))  # type: ignore[arg-type]

    found = averages(
        [day(10, active=5, watch_s=40.0, long_views=4, grades=10.0), day(30, active=1, long_views=1, likes=2)]
    )
    assert found["active"] == 15.0 and found["watch_s"] == 1.0 and found["likes"] == 0.05
    assert found["satisfaction"] == 2.0 and found["stay_s"] == 0.0
    assert math.isnan(averages([day(10)])["satisfaction"])


class Watched:
    """Records what a run of the closed loop trains on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The delay is so long that many answers arrive on a later day.
        monkeypatch.setattr(world_outcomes, "DELAY_MEDIAN_MS", 8 * 3_600_000)
        self.opened: list[tuple[Sources, dataset.Period]] = []
        self.requests: list[EncodedRequests] = []
        """Requests of each source, in the order of its stream."""
        self.served: list[closed_loop.Served] = []
        self.replayed: list[tuple[int, int, int]] = []
        """(clock, latest arrival among the answers drawn, answers admitted) of every draw."""
        self.draws: list[int] = []
        """Number of the step of every draw."""
        self.rates: set[float] = set()
        opened, append, draw, rate = open_sources, closed_loop.ArmData.append, AnswerReplay.draw, Optimizers.before_step

        def open_watched(config: Config, directory: Path, *, period: dataset.Period) -> Sources:
            assert not config.data.shuffle
            sources = opened(config, directory, period=period)
            self.opened.append((sources, period))
            parts = [part.requests for part in sources.reader.read(StreamPosition(), epochs=1)]
            self.requests.append(EncodedRequests.concat(parts))
            return sources

        def append_watched(data: closed_loop.ArmData, day: closed_loop.Served) -> None:
            self.served.append(day)
            append(data, day)

        def draw_watched(replay: AnswerReplay, clock_ms: int) -> object:
            before = replay.state.replays.copy()
            answers = draw(replay, clock_ms)
            drawn = replay._time[replay.state.replays > before]
            self.draws.append(replay.state.steps)
            self.replayed.append((clock_ms, int(drawn.max(initial=0)), replay.state.admitted))
            return answers

        def rate_watched(optimizers: Optimizers, step: int, total_steps: int) -> float:
            factor = rate(optimizers, step, total_steps)
            self.rates.add(round(factor, 6) if step >= STEPS else 0.0)
            return factor

        monkeypatch.setattr(closed_loop, "open_sources", open_watched)
        monkeypatch.setattr(closed_loop.ArmData, "append", append_watched)
        monkeypatch.setattr(AnswerReplay, "draw", draw_watched)
        monkeypatch.setattr(Optimizers, "before_step", rate_watched)


def trained(config: Config, folder: Path, experiment: Experiment = EXPERIMENT) -> list[dict[str, float]]:
    """Runs a cell in this process, and returns the lines of its metrics.jsonl."""
    ensure(config.world, folder / "world")
    data = dataclasses.replace(config.data, path=str(folder / "world"))
    config = dataclasses.replace(config, run_dir=str(folder / "run"), data=data)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    assert online_cell.main([str(folder / "config.json"), online_cell.settings(experiment, None)]) == 0
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_an_arm_trains_on_each_of_its_days_after_the_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = small(), Watched(monkeypatch)
    trained(config, tmp_path)
    start = Stage.of(config.world).start_ms
    assert len(seen.served) == 2 * EXPERIMENT.days
    # Each half is trained on the held-out part of the log, and then on all days but the last.
    assert len(seen.opened) == 2 * EXPERIMENT.days
    log = pq.read_table(tmp_path / "world" / "requests")["request_id"].to_numpy()
    for half in (0, 1):
        (_, *days), (caught_up, *streams) = (
            found[half * EXPERIMENT.days : (half + 1) * EXPERIMENT.days] for found in (seen.opened, seen.requests)
        )
        assert np.array_equal(caught_up.scalars["request_id"], log[-len(caught_up) :]) and 60 < len(caught_up) < 100
        for day, ((_, period), stream) in enumerate(zip(days, streams, strict=True)):
            served = seen.served[half * EXPERIMENT.days + day]
            assert period.start_ms == start + day * DAY_MS and period.end_ms == period.start_ms + DAY_MS
            # Each request is read once, in time order. Candidates that the user did not see are not trained on.
            assert np.array_equal(stream.scalars["request_id"], served.requests.request_id)
            assert np.array_equal(stream.candidates.lengths, served.seen)
    # The two halves have no users in common.
    halves = [
        {int(user) for day in seen.served[half * 7 : half * 7 + 7] for user in day.requests.user_id} for half in (0, 1)
    ]
    assert halves[0] and halves[1] and not halves[0] & halves[1]


def test_an_answer_is_not_trained_on_before_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = small(), Watched(monkeypatch)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, schedule="cosine"))
    trained(config, tmp_path)
    assert all(arrived <= clock for clock, arrived, _ in seen.replayed)
    assert len({admitted for _, _, admitted in seen.replayed}) > 5
    sources, periods = seen.opened[EXPERIMENT.days - 1][0], [period for _, period in seen.opened[: EXPERIMENT.days]]
    answers = sources.answers
    assert answers is not None
    column = answers.candidates.column
    given = np.repeat(answers.timestamp_ms, answers.candidates.lengths)[column("answer") >= 0]
    arrived = column("answered_at_ms")[column("answer") >= 0]
    # Some answers of a day arrive after it. They are absent when it is trained on, and present on a later day.
    day = periods[2]
    late = (given >= day.start_ms) & (given < day.end_ms) & (arrived >= day.end_ms)
    assert late.sum() > 0
    replay = seen.opened[2][0].loader._replay
    assert replay is not None and replay._time.max() < day.end_ms
    following = sources.loader._replay
    assert following is not None and set(arrived[late & (arrived < periods[-1].end_ms)]) & set(following._time)
    # The replay continues from the log, and then from day to day. The second half starts after the log again.
    every = config.losses.align_every
    again = np.flatnonzero(np.diff(seen.draws) != every) + 1
    assert seen.draws[0] == every and [seen.draws[index] for index in again] == [STEPS + every]
    assert len(seen.draws) > 20
    # The learning rate keeps the last value of its schedule.
    assert seen.rates == {0.0, 0.1}


def test_both_halves_start_from_the_ranker_trained_on_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of the log, of the days and of the week are all written."""
    starts: list[torch.Tensor] = []
    before: list[torch.Tensor] = []
    serve, continue_training = ServedByModel.__call__, Trainer.continue_training

    def parameters(network: torch.nn.Module) -> torch.Tensor:
        return torch.cat([value.detach().flatten() for value in network.parameters()]).clone()

    def going_on(trainer: Trainer, sources: Sources) -> int:
        before.append(parameters(trainer.setup.ranker.network))
        return continue_training(trainer, sources)

    def watched(ranker: ServedByModel, pool: object) -> object:
        starts.append(parameters(ranker._score.__self__.ranker.network))  # type: ignore[attr-defined]
        return serve(ranker, pool)  # type: ignore[arg-type]

    monkeypatch.setattr(ServedByModel, "__call__", watched)
    monkeypatch.setattr(Trainer, "continue_training", going_on)
    lines = trained(small("main_only"), tmp_path)
    # Each half starts from the checkpoint of the training on the log.
    config = small("main_only")
    taught = load_ranker(config, latest_of(tmp_path / "run"), policy_only=False)
    halves = (before[0], before[EXPERIMENT.days])
    assert all(torch.equal(start, parameters(taught.network)) for start in halves)
    assert not torch.equal(before[1], before[0])
    # The same parameters serve the first day of both halves. Other parameters serve every other day.
    same = [index for index, value in enumerate(starts) if torch.equal(value, starts[0])]
    gaps = np.flatnonzero(np.diff(same) > 1)
    assert len(gaps) == 1 and same[0] == 0 and len(starts) - len(same) > 10
    days = [line for line in lines if line["split"] == "online"]
    assert [line["step"] for line in days] == list(range(EXPERIMENT.days))
    final = lines[-1]
    assert final["split"] == "final" and 0 < final["satisfaction_ndcg5"] < 1
    week = np.mean([line[f"{DAY}stay_s"] for line in days[-7:]])
    assert final[f"{WEEK}stay_s"] == pytest.approx(week)
    assert final[f"{WEEK}lt7"] == pytest.approx(sum(line[f"{DAY}active"] for line in days[-7:]) / 100)
    assert not list((tmp_path / "run").glob("half-*/data"))


def test_the_same_cell_gives_the_same_days(tmp_path: Path) -> None:
    one, two = (trained(small(), tmp_path / name, Experiment(warmup_days=0, requests=1)) for name in ("one", "two"))

    def measured(lines: list[dict[str, float]]) -> list[dict[str, float]]:
        return [line for line in lines if line["split"] == "online"]

    assert measured(one) == measured(two) and len(measured(one)) == 7


def test_encoded_requests_for_serving_contain_no_outcomes() -> None:
    config = small()
    stage = Stage.of(config.world)
    part = next(iter(simulate(stage.model)))
    columns = closed_loop.as_columns(part, stage.latents, max_history=6)
    encoded = encode(Layout.of(config.schema, outcomes=False), columns)
    assert set(encoded.candidates.children) == {
        "video_id",
        *(f"feature.{feature.name}" for feature in config.schema.candidate),
    }


def test_a_period_without_requests_is_refused(tmp_path: Path) -> None:
    config = small()
    ensure(config.world, tmp_path / "world")
    with pytest.raises(ValueError, match="requests has no requests from 5 to before 9 ms"):
        open_sources(config, tmp_path / "world", period=dataset.Period(start_ms=5, end_ms=9))
