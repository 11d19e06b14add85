"""Steps with a loss or a gradient that is not finite.

The host reads the flags of a step at once, as on the CPU, or one step later, as on a GPU. The exchange between ranks is
tested in tests/integration/test_not_finite.py, with real ranks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from easq_rec.training.health import finite_check
from easq_rec.training.process import Runtime, quiet
from tests.builders import small_config
from tests.training.health.checked_training import STEPS, CheckedTraining


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(params=[0, 1], ids=["at_once", "a_step_later"])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(finite_check, "read_delay", lambda device: request.param)
    return int(request.param)


def test_parameters_with_a_non_finite_gradient_do_not_change(runtime: Runtime, tmp_path: Path, late: int) -> None:
    """A non-finite loss changes no parameter, and a non-finite gradient of the tables changes no table.

    A non-finite gradient of the network also reaches the tables, except those of the satisfaction tower, whose
    gradients do not pass through the network. Parameters that it does not reach are trained as usual.
    """
    planted = {1: "loss", 3: "embeddings", 5: "network"}
    training = CheckedTraining(small_config(), runtime, tmp_path, planted=planted)
    training.run()
    assert [outcome.step for outcome in training.outcomes] == list(range(1, STEPS + 1))
    assert training.read_after == [min(step + late, STEPS) for step in range(1, STEPS + 1)]
    problems = {one.step: one.problem for one in training.outcomes if one.problem is not None}
    assert problems.keys() == planted.keys()
    assert problems[1].startswith("the loss (pointwise, main")
    assert problems[3] == problems[5] == "the gradient of embeddings"
    assert training.finite_check.skipped_steps == 3 and not training.reported
    assert len(list(tmp_path.iterdir())) == 3
    for name in moved(training.states[0], training.states[1]):
        assert training.states[-1][name].isfinite().all(), name
    tables = {name for name in training.states[0] if ".embeddings." in name}
    for step in range(2, STEPS + 1):
        changed = moved(training.states[step - 2], training.states[step - 1])
        match planted.get(step):
            case None:
                assert changed & tables and changed - tables
                assert {name.split(".")[-1] for name in changed} > {"bias_K", "count"}
            case "embeddings":
                assert not changed & tables and changed - tables
            case "network":
                assert changed == {name for name in tables if "satisfaction" in name}


def test_the_first_step_may_be_skipped(runtime: Runtime, tmp_path: Path, late: int) -> None:
    """If the first step is skipped, weights and optimizer states stay as they were initialized."""
    config = small_config()
    # The end of the warm-up is part of the state, and does not depend on what a step computes.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, satisfaction_weight=0.0))
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, schedule="constant"))
    skipped = CheckedTraining(config, runtime, tmp_path, planted={1: "loss"})
    skipped.run()
    steps = {name: value for name, value in skipped.states[0].items() if name.endswith(" step")}
    assert steps and all(float(value) == 0 for value in steps.values())
    fresh = CheckedTraining(config, runtime, tmp_path)._state()
    assert moved(fresh, skipped.states[0]) == set()


def test_a_run_that_is_to_stop_reports_the_step_and_the_problem(runtime: Runtime, tmp_path: Path, late: int) -> None:
    """A loss is reported at its step. A gradient is reported at the next step, which changes nothing."""
    loss = CheckedTraining(small_config(), runtime, tmp_path / "loss", planted={3: "loss"}, stops=True)
    loss.run()
    assert list(loss.reported) == [3] and loss.reported[3].startswith("step 3, rank 0: the loss (pointwise, main")
    gradient = CheckedTraining(small_config(), runtime, tmp_path / "gradient", planted={3: "embeddings"}, stops=True)
    gradient.run()
    assert list(gradient.reported) == [4]
    assert gradient.reported[4].startswith("step 3, rank 0: the gradient of embeddings is not finite")
    assert moved(gradient.states[2], gradient.states[3]) == set()


def test_reading_flags_later_gives_the_same_training(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States and outcomes are bit-identical if the host reads the flags one step later."""
    found = []
    for late in (0, 1):
        monkeypatch.setattr(finite_check, "read_delay", lambda device, late=late: late)
        training = CheckedTraining(
            small_config(), runtime, tmp_path, planted={2: "loss", 4: "network", 6: "embeddings"}
        )
        training.run()
        found.append((training.states, [(one.step, one.skipped, one.problem) for one in training.outcomes]))
    (states, outcomes), (states_late, outcomes_late) = found
    assert outcomes == outcomes_late
    assert all(not moved(one, other) for one, other in zip(states, states_late, strict=True))
