"""Answered and triggered impressions of a training period, counted from files as a loop over their rows counts them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.answers.propensity import Propensities
from easq_rec.config import World
from easq_rec.config.recipes import quickstart, recipe, with_world
from easq_rec.data.dataset import Period, RequestDataset, split
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.data.response import count_responses, outcome_layout, propensities
from easq_rec.data.sources import open_sources
from easq_rec.tools.simulation.world import generate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("response") / "world"
    generate(World(version=2, requests=1_500, users=100, videos=200, density=3_000.0), directory)
    return directory


def pattern(candidate: dict[str, object], names: list[str]) -> int:
    return sum(1 << index for index, name in enumerate(names) if candidate[name])


@pytest.mark.parametrize("trigger", ["valid_play", None])
def test_propensities_count_the_files_of_a_period(world: Path, trigger: str | None) -> None:
    """Answers after the period, or to requests of another, do not count. Uncertain answers are answers."""
    schema = dataclasses.replace(with_world(quickstart(), 2).schema, trigger=trigger)
    names = [outcome.name for outcome in schema.outcomes]
    whole, _ = split(world / "requests", 0.0)
    length = whole.end_ms - whole.start_ms
    period = Period(start_ms=whole.start_ms + length // 10, end_ms=whole.start_ms + length * 7 // 10)
    triggered: Counter[int] = Counter()
    for path in sorted((world / "requests").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            if period.start_ms <= row["timestamp_ms"] < period.end_ms:
                triggered.update(pattern(c, names) for c in row["candidates"] if trigger is None or c[trigger])
    answered: Counter[int] = Counter()
    late = 0
    for path in sorted((world / "answers").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            for candidate in row["candidates"]:
                if candidate["answer"] is None or not period.start_ms <= row["timestamp_ms"] < period.end_ms:
                    continue
                late += candidate["answered_at_ms"] >= period.end_ms
                if candidate["answered_at_ms"] < period.end_ms:
                    answered[pattern(candidate, names)] += 1
    assert late and sum(answered.values()) > 50 and len(answered) > 3
    layout = Layout.of(schema, answers=True)
    answers = encode(layout, RequestDataset(world / "answers", layout).read_all())  # type: ignore[arg-type]
    requests = RequestDataset(world / "requests", outcome_layout(schema), period=period)
    assert count_responses(requests, answers, period) == (answered, triggered)
    assert count_responses(requests, None, period) == (Counter(), triggered)
    weights = propensities(requests, answers, period, most=4.0).weights(np.eye(len(names), dtype=bool))
    expected = Propensities(answered, triggered, most=4.0).weights(np.eye(len(names), dtype=bool))
    assert weights.tolist() == expected.tolist()


def test_weights_of_drawn_answers_reach_the_batches(world: Path) -> None:
    """They are those of the answered candidates' outcomes, on two ranks as on one. `easq` has none."""
    config = with_world(recipe("quickstart_ips_answers"), 2)
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, batch_size=32))
    period, _ = split(world / "requests", config.data.holdout)
    layout = Layout.of(config.schema, answers=True)
    answers = encode(layout, RequestDataset(world / "answers", layout).read_all())  # type: ignore[arg-type]
    requests = RequestDataset(world / "requests", outcome_layout(config.schema), period=period)
    expected = propensities(requests, answers, period, most=config.losses.satisfaction.most_weight)
    seen: list[set[float]] = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        loader = open_sources(config, world, rank=rank, world_size=world_size).loader
        weights: set[float] = set()
        for batch, _ in loader.batches(loader.start(), steps=6):
            assert (batch.answer_weight_A is None) == (not len(batch.answer_A))
            if batch.answer_weight_A is not None:
                happened = (batch.outcome_NO[batch.answered_A] > 0).numpy()
                np.testing.assert_array_equal(batch.answer_weight_A.numpy(), expected.weights(happened))
                weights |= set(batch.answer_weight_A.tolist())
        seen.append(weights)
    assert len(seen[0]) > 2 and all(seen)
    plain = open_sources(with_world(recipe("quickstart"), 2), world).loader
    assert all(batch.answer_weight_A is None for batch, _ in plain.batches(plain.start(), steps=4))
