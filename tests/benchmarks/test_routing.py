"""The routing benchmark compares towers of equal multiply-adds, and counts dead experts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.routing import COMPARED, EXPERTS, RECIPES, TOWERS, Job, config_of, gates_of, jobs, multiply_adds


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_towers_have_the_multiply_adds_of_the_routed_experts(recipe: str) -> None:
    config = {kind: config_of(Job(recipe=recipe, towers=kind, seed=3)) for kind in TOWERS}
    for name in config["routed"].model.towers:
        towers = {kind: one.model.towers[name] for kind, one in config.items()}
        dim = config["routed"].model.dim
        assert [towers[kind].experts for kind in TOWERS] == [EXPERTS[name], EXPERTS[name], 1, 1]
        work = {kind: multiply_adds(tower, dim)["experts"] for kind, tower in towers.items()}
        assert work["routed"] == work["uncontrolled"] == work["equal"] == EXPERTS[name] * work["small"]
        assert work["small"] == towers["small"].hidden * (dim + towers["small"].out)
        assert towers["routed"].activity is not None and towers["uncontrolled"].activity is None
    assert all(one.trainer.seed == one.world.seed == 3 for one in config.values())


def test_what_is_compared_is_trained_with_all_towers_and_the_others_with_routers() -> None:
    found = list(jobs(5, 3))
    for name in RECIPES:
        for kind in TOWERS:
            seeds = {job.seed for job in found if (job.recipe, job.towers) == (name, kind)}
            compared = {0, 1, 2} if name in COMPARED else set()
            assert seeds == (set(range(5)) if kind == "routed" else compared)


def test_gates_are_summarised_over_experts_and_seeds() -> None:
    runs: list[dict[str, Any]] = [{"gates": {"main": shares}} for shares in ([0.0, 0.5, 1.0], [0.03, 0.4, 0.97])]
    row = gates_of(runs)["main"]
    assert (row["experts"], row["least"], row["most"]) == (6, 0.0, 1.0)
    assert (row["dead"], row["always_open"], row["runs_with_a_dead_expert"]) == (1, 1, 1)
    assert (row["below_5_percent"], row["above_95_percent"]) == (2, 2)
