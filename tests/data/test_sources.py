"""What a config asks of the training stream reaches its batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from easq_rec.config import World
from easq_rec.config.recipes import recipe
from easq_rec.data.sources import open_sources
from easq_rec.tools.simulation.world import generate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources") / "world"
    generate(World(requests=1_000, users=100, videos=200, density=1_000.0), directory)
    return directory


@pytest.mark.parametrize(("name", "replays"), [("quickstart", True), ("quickstart_evidence_on_policy", False)])
def test_only_losses_that_compare_answers_replay_them(world: Path, name: str, replays: bool) -> None:
    """Both admit answers, which set the weights of evidence."""
    loader = open_sources(recipe(name), world).loader
    steps = list(loader.batches(loader.start(), steps=4))
    assert steps[-1][1].replay.admitted > 0
    assert any(len(batch.answered_A) for batch, _ in steps) == replays
