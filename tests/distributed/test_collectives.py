"""A training step on two ranks issues no more collectives than are listed here.

Each collective adds latency, and in it the faster rank waits for the slower one. `worker_collectives.py` trains with
the real trainer and counts the calls.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from easq_rec.config import World
from easq_rec.tools.simulation.world import generate
from tests.conftest import Warm
from tests.distributed.worker_collectives import RECIPES

pytestmark = pytest.mark.distributed

REPOSITORY = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker_collectives.py")

Step = dict[str, Any]

EVERY_STEP = {
    "allreduce in losses/comparison.py Comparison.forward": 1,
    "allreduce in training/health/finite_check.py FiniteCheck.check_loss": 1,
    "allreduce in training/averaging.py Averaging.start": 1,
}
"""Collectives of this package: numbers of pairs, whether all losses are finite, gradients of the dense network."""
ALIGNED_STEP = {"allgather in losses/objective.py Objective._start_exchange": 1}
"""Additional in aligned steps: values of the answers."""
LOGGED_STEP = {"allreduce in training/step_statistics.py step_statistics": 1}
TORCHREC = {"quickstart_main_only": 17, "quickstart": 17, "quickstart_paper": 17}
"""Collectives of TorchRec: one for the sizes of all ids; for each module and sharding type those of lengths, ids,
embeddings and gradients. The planner gives the two tables of the history's module different sharding types."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> dict[str, list[Step]]:
    """The counted steps of each recipe."""
    directory = tmp_path_factory.mktemp("collectives")
    world = directory / "world"
    # Enough answers that every aligned step has some.
    generate(World(requests=600, users=100, videos=200, density=500.0), world)
    warm.run(*warm.torchrun(2), str(WORKER), str(world), str(directory))
    found: dict[str, list[Step]] = json.loads((directory / "collectives.json").read_text())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_collectives_of_the_package_are_the_listed_ones(steps: dict[str, list[Step]], recipe: str) -> None:
    for step in steps[recipe]:
        expected = EVERY_STEP | (ALIGNED_STEP if step["aligned"] else {}) | (LOGGED_STEP if step["logged"] else {})
        assert {place: count for place, count in step["calls"].items() if " in torchrec " not in place} == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_collectives_of_torchrec_do_not_exceed_the_limit(steps: dict[str, list[Step]], recipe: str) -> None:
    for step in steps[recipe]:
        calls = Counter({place: count for place, count in step["calls"].items() if " in torchrec " in place})
        assert 0 < calls.total() <= TORCHREC[recipe], calls


def test_all_kinds_of_steps_are_counted(steps: dict[str, list[Step]]) -> None:
    kinds = {recipe: {step["aligned"] for step in found} for recipe, found in steps.items()}
    assert kinds == {"quickstart_main_only": {False}, "quickstart": {False, True}, "quickstart_paper": {True}}
    assert all(any(step["logged"] for step in found) for found in steps.values())
