"""The questionnaire of the world: thresholds, response rates, a separate random stream, and the world's identity."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.recipes import quickstart, world_schema
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.data.sources import world_directory
from easq_rec.tools.simulation import world
from easq_rec.tools.simulation.latents import Latents
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.outcomes import answer_rate
from easq_rec.tools.simulation.requests import as_columns

SMALL = World(
    version=1, requests=2_000, users=200, videos=400, candidates=6, history=9, density=2_000.0, days=3.0, seed=5
)
Log = dict[str, NDArray[Any]]


def simulated(config: World) -> tuple[Latents, Log]:
    model = create_model(config)
    rounds = list(world.simulate(model))
    names = [field.name for field in dataclasses.fields(model.round_type)]
    return model.latents, {name: np.concatenate([getattr(part, name) for part in rounds]) for name in names}


@pytest.mark.parametrize(("watch_s", "progress"), [(0.0, 0.5), (3.0, 0.25), (7.0, 0.5), (30.0, 1.0)])
def test_only_impressions_beyond_a_threshold_are_asked_about(watch_s: float, progress: float) -> None:
    config = dataclasses.replace(SMALL, trigger_watch_s=watch_s, trigger_progress=progress)
    latents, log = simulated(config)
    asked_short = triggered = shown = answered = 0
    for row in range(config.requests):
        for column in range(config.candidates):
            watch, length = int(log["watch_ms"][row, column]), int(latents.duration_ms[log["video"][row, column]])
            rule = watch > 1_000 * watch_s or watch > progress * length
            # The definition of a long view does not depend on the trigger rule.
            assert log["long_view"][row, column] == (watch > 7_000 or 2 * watch > length)
            assert rule or not log["shown"][row, column]
            assert log["shown"][row, column] or log["answer"][row, column] == NO_ANSWER
            triggered += rule
            shown += int(log["shown"][row, column])
            answered += int(log["answer"][row, column] != NO_ANSWER)
            asked_short += int(log["shown"][row, column] and not log["long_view"][row, column])
    assert shown == triggered, "with density 2000 the questionnaire is shown on every triggered impression"
    assert abs(answered / triggered - config.answer_rate) < 4 * (config.answer_rate / triggered) ** 0.5
    assert (asked_short > 0) == (watch_s < 7.0)


def test_a_questionnaire_with_a_separate_seed_does_not_change_the_log() -> None:
    apart = dataclasses.replace(SMALL, questionnaire_seed=0)
    wide = dataclasses.replace(apart, trigger_watch_s=0.0, density=1_000.0)
    (_, one), (_, two) = simulated(apart), simulated(wide)
    told = {"shown", "answer", "answered_at_ms"}
    for name in set(one) - told:
        assert np.array_equal(one[name], two[name]), name
    assert not np.array_equal(one["shown"], two["shown"])
    # Impressions that are answered with both settings have the same answer.
    both = (one["answer"] != NO_ANSWER) & (two["answer"] != NO_ANSWER)
    assert both.sum() > 100 and np.array_equal(one["answer"][both], two["answer"][both])
    assert np.array_equal(one["answered_at_ms"][both], two["answered_at_ms"][both])
    assert not np.array_equal(simulated(dataclasses.replace(apart, questionnaire_seed=1))[1]["answer"], one["answer"])
    # Without a separate seed the questionnaire uses the random stream of the log: another density changes the log.
    assert not np.array_equal(
        simulated(dataclasses.replace(SMALL, density=1_000.0))[1]["video"], simulated(SMALL)[1]["video"]
    )
    assert apart.requests_identity == wide.requests_identity
    assert SMALL.requests_identity != dataclasses.replace(SMALL, density=1_000.0).requests_identity
    assert apart.requests_identity != dataclasses.replace(apart, seed=6).requests_identity


def test_users_who_watched_more_answer_more_often() -> None:
    config = dataclasses.replace(SMALL, requests=8_000, density=200.0, response=0.2)
    config = dataclasses.replace(config, trigger_watch_s=0.0, response_progress=2.0)
    watch, duration = np.array([0, 5_000, 10_000, 12_000]), np.full(4, 10_000)
    # Odds of 0.2 / 0.8, times exp(-1), 1 and exp(1). Watching more than the whole video does not raise them further.
    odds = 0.25 * np.exp([-1.0, 0.0, 1.0, 1.0])
    assert answer_rate(config, watch, duration) == pytest.approx(config.shown_rate * odds / (1 + odds))
    assert answer_rate(dataclasses.replace(config, response_progress=0.0), watch, duration) == config.answer_rate
    latents, log = simulated(config)
    seen = log["watch_ms"] / latents.duration_ms[log["video"]]
    shown, answered = log["shown"] == 1, log["answer"] != NO_ANSWER
    assert not (answered & ~shown).any()
    rates = [answered[shown & among].mean() for among in (seen < 0.25, (seen > 0.4) & (seen < 0.6), seen > 0.9)]
    assert rates[0] < 0.13 and rates[1] == pytest.approx(0.2, abs=0.03) and rates[2] > 0.35


def test_every_setting_is_part_of_the_identity_of_a_world(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, requests=50)
    world.generate(config, tmp_path / "world")
    stored = json.loads((tmp_path / "world" / "world.json").read_text())
    assert stored["config"] == config.identity
    assert world.is_complete(config, tmp_path / "world")
    other = dataclasses.replace(config, trigger_watch_s=3.0)
    with pytest.raises(ValueError, match=r"world\.trigger_watch_s is 7\.0, not 3\.0"):
        world.is_complete(other, tmp_path / "world")
    places = {world_directory(dataclasses.replace(quickstart(), world=one)) for one in (config, other)}
    assert len(places) == 2


@pytest.mark.parametrize("name", ["trigger_watch_s", "trigger_progress", "response_progress", "questionnaire_seed"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"world.{name}=-1 is not allowed"):
        World(**{name: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [4, 9])
def test_columns_of_a_round_equal_those_read_from_its_file(most: int, tmp_path: Path) -> None:
    model = create_model(SMALL)
    latents = model.latents
    part, *_, later = world.simulate(model)
    for number, round_ in enumerate((part, later)):
        (tmp_path / str(number)).mkdir()
        pq.write_table(world.to_table(round_, latents, answers=False), tmp_path / str(number) / "part.parquet")
        layout = Layout.of(world_schema(users=200, videos=400, dim=8), outcomes=False)
        wanted = RequestDataset(tmp_path / str(number), layout, max_history=most).read_all()
        found = as_columns(round_, latents, max_history=most)
        assert wanted is not None and found.scalars.keys() == wanted.scalars.keys()
        for name, column in wanted.scalars.items():
            assert np.array_equal(found.scalars[name], column), name
        for mine, theirs in ((found.history, wanted.history), (found.candidates, wanted.candidates)):
            assert np.array_equal(mine.offsets, theirs.offsets) and mine.children.keys() == theirs.children.keys()
            for name in set(theirs.children) - {"tags"}:
                assert np.array_equal(mine.column(name), theirs.column(name)), name
                assert mine.column(name).dtype == theirs.column(name).dtype, name
        tags = found.candidates.lists("tags"), wanted.candidates.lists("tags")
        assert np.array_equal(tags[0].offsets, tags[1].offsets)
        assert np.array_equal(tags[0].column("values"), tags[1].column("values"))


def test_lengths_limit_the_candidates_that_are_written() -> None:
    model = create_model(SMALL)
    latents, part = model.latents, next(iter(world.simulate(model)))
    lengths = np.arange(len(part.user_id)) % (SMALL.candidates + 1)
    cut = world.to_table(part, latents, answers=True, lengths=lengths)["candidates"].to_pylist()
    whole = world.to_table(part, latents, answers=True)["candidates"].to_pylist()
    assert cut == [candidates[:length] for candidates, length in zip(whole, lengths, strict=True)]
