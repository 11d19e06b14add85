"""What a config asks of the training stream reaches its batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from easq_rec.config import World
from easq_rec.config.recipes import recipe
from easq_rec.data.sources import open_sources
from easq_rec.tools.simulation.world import generate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources") / "world"
    generate(World(requests=1_000, users=100, videos=200, density=1_000.0), directory)
    return directory


@pytest.mark.parametrize(
    ("name", "replays"),
    [("quickstart", True), ("quickstart_evidence_on_policy", False), ("quickstart_reward_model", False)],
)
def test_only_losses_that_compare_answers_replay_them(world: Path, name: str, replays: bool) -> None:
    """All admit answers, which set the weights of evidence, and the rewards."""
    loader = open_sources(recipe(name), world).loader
    steps = list(loader.batches(loader.start(), steps=4))
    assert steps[-1][1].replay.admitted > 0
    assert any(len(batch.answered_A) for batch, _ in steps) == replays


def test_rewards_of_a_batch_are_sums_of_the_weights_of_its_outcomes(world: Path) -> None:
    """They come from the answers that are admitted by then. Other configs have none."""
    sources = open_sources(recipe("quickstart_reward_model"), world)
    *_, (batch, state) = sources.loader.batches(sources.loader.start(), steps=3)
    replay = sources.loader._replay
    assert replay is not None and batch.reward_N is not None
    replay.state = state.replay
    weight_O = replay.reward()
    assert weight_O is not None and (weight_O[1:] > 0).all()
    expected_N = ((batch.outcome_NO > 0).double() @ torch.from_numpy(weight_O).double())[: batch.stream.candidates]
    torch.testing.assert_close(batch.reward_N, expected_N.float())
    assert len(set(expected_N.tolist())) > 2
    loader = open_sources(recipe("quickstart"), world).loader
    assert all(batch.reward_N is None for batch, _ in loader.batches(loader.start(), steps=2))


def test_weights_of_evidence_begin_with_what_the_schema_expects(world: Path) -> None:
    """Before the first answer is admitted; outcomes without an expectation have weight 0."""
    config = recipe("quickstart")
    replay = open_sources(config, world).loader._replay
    assert replay is not None and replay.state.admitted == 0
    expected = [outcome.expected_evidence or 0.0 for outcome in config.schema.outcomes]
    assert replay.evidence().tolist() == expected and any(expected)
