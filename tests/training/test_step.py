"""A training step: the gradient hook between network and tables, and the effect of a plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from easq_rec.config import Config, Logging
from easq_rec.data.replay import ReplayState
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.optim import PATHWAY, parameter_group
from easq_rec.training.process import Runtime, quiet
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import StepPlan, TrainingStep
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def training_step(config: Config, runtime: Runtime, directory: Path) -> tuple[TrainingModel, TrainingStep]:
    torch.manual_seed(0)
    model = TrainingModel(config, torch.device("meta"))
    excite(model.ranker.network)
    finite_check = FiniteCheck(runtime, directory, stops=False)
    return model, TrainingStep(shard(model, config, runtime), config.optim, runtime, finite_check)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("variant", ["everything", "with_dpo", "direct", "paper", "shared_bottom", "ple", "main_only"])
def test_the_gradients_of_the_network_are_complete_at_the_hook(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, aligned: bool
) -> None:
    """Averaging starts when the first gradient reaches the tables, so all gradients of the network must be final."""
    config = small_config(variant)
    model, step = training_step(config, runtime, tmp_path)
    network = model.ranker.network
    found: list[dict[str, Tensor]] = []
    hook = step._start_averaging
    calls: list[str] = []

    def start_averaging() -> None:
        if not calls:
            found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        calls.append("start")
        hook()

    monkeypatch.setattr(step, "_start_averaging", start_averaging)
    answered = {} if aligned else {"answered": 0}
    for number in (1, 2):
        step.zero_grad()
        step.forward(random_batch(config, aligned=aligned, **answered))[0].backward()
        assert len(found) == number and len(calls) >= 3
        assert {name for name, p in network.named_parameters() if p.grad is not None} == set(found[-1]) != set()
        for name, gradient in found[-1].items():
            torch.testing.assert_close(gradient, network.get_parameter(name).grad, rtol=0, atol=0, msg=name)
        calls.clear()


def test_the_satisfaction_score_is_served_from_the_first_steered_step_on(runtime: Runtime, tmp_path: Path) -> None:
    """The plan of a step says whether the warm-up is over. It does not begin again."""
    config = small_config()
    model, step = training_step(config, runtime, tmp_path)
    served = []
    for steered in (False, True, False):
        step._plan = StepPlan(number=1, total_steps=3, steered=steered)
        step.forward(random_batch(config))
        assert model.ranker.network.steering is not None
        served.append(float(model.ranker.network.steering))
    assert served == [0.0, 1.0, 1.0]


def test_the_tables_get_the_gradient_that_the_hook_returns(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("main_only")
    moved = []
    for factor in (1.0, 0.0):
        model, step = training_step(config, runtime, tmp_path)
        check = step.finite_check
        monkeypatch.setattr(check, "gradient_for_tables", lambda gradient, factor=factor: factor * gradient)
        tables = [p for name, p in model.named_parameters() if ".embeddings." in name]
        before = [table.detach().clone() for table in tables]
        step(iter([random_batch(config)]), StepPlan(number=1, total_steps=2))
        moved.append(sum(not torch.equal(*pair) for pair in zip(before, tables, strict=True)))
    assert moved[0] > 3 and moved[1] == 0


def test_a_plan_decides_whether_a_step_steers_and_measures(runtime: Runtime, tmp_path: Path) -> None:
    config = small_config()
    losses, norms = [], []
    for flag in (True, False):
        _, step = training_step(config, runtime, tmp_path)
        plan = StepPlan(number=1, total_steps=2, steered=flag, measured=flag)
        result = step(iter([random_batch(config)]), plan)
        losses.append(float(result.output.loss.detach()))
        norms.append(result.gradient_norms)
    assert losses[0] != losses[1], "only one of the losses includes L_dense"
    assert norms[0] and not norms[1]


def test_a_step_without_alignment_does_not_change_the_pathway(runtime: Runtime, tmp_path: Path) -> None:
    """The momentum of AdamW does not change the pathway either."""
    config = small_config()
    model, step = training_step(config, runtime, tmp_path)
    batches = iter([random_batch(config), random_batch(config, aligned=False, answered=0)])
    step(batches, StepPlan(number=1, total_steps=2))
    dense = {name: p for name, p in model.named_parameters() if "embeddings" not in name and p.requires_grad}
    before = {name: value.detach().clone() for name, value in dense.items()}
    step(batches, StepPlan(number=2, total_steps=2))
    for name, value in dense.items():
        unchanged = parameter_group(f".{name}") in PATHWAY
        assert torch.equal(value, before[name]) == unchanged, name


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({}, ()),
        ({"answers_differ": False}, ("lora",)),
        ({"evidence_counts": False}, ()),
        ({"answers_differ": False, "evidence_counts": False}, PATHWAY),
    ],
    ids=["both", "evidence", "answers", "neither"],
)
def test_momentum_does_not_change_what_no_loss_moves(
    changes: dict[str, bool], still: tuple[str, ...], runtime: Runtime, tmp_path: Path
) -> None:
    """Where answers are few, most aligned steps have no pair of them. The gradient of the adapters is then zero."""
    config = small_config()
    model, step = training_step(config, runtime, tmp_path)
    assert model.ranker.network.evidence
    without = random_batch(config, answered=0 if still else 5)
    batches = iter([random_batch(config), dataclasses.replace(without, **changes)])
    step(batches, StepPlan(number=1, total_steps=2))
    dense = {name: p for name, p in model.named_parameters() if "embeddings" not in name and p.requires_grad}
    before = {name: value.detach().clone() for name, value in dense.items()}
    step(batches, StepPlan(number=2, total_steps=2))
    for name, value in dense.items():
        assert torch.equal(value, before[name]) == (parameter_group(f".{name}") in still), name


def test_the_phases_of_a_step_are_measured(runtime: Runtime, tmp_path: Path) -> None:
    """Every phase takes time, and no phase is active after the step."""
    config = small_config()
    _, step = training_step(config, runtime, tmp_path)
    runtime.phases.take_window(1)
    step(iter([random_batch(config)]), StepPlan(number=1, total_steps=2))
    milliseconds, _ = runtime.phases.take_window(1)
    assert all(milliseconds[f"ms_{name}"] > 0 for name in ("exchange", "forward", "backward", "optimizer"))
    assert runtime.phases.current.names == ()


@pytest.mark.parametrize(
    ("step", "rarer_class", "steered", "measured"),
    [(9, 5, False, True), (10, 4, False, False), (10, 5, True, False), (19, 5, True, True)],
)
def test_a_plan_follows_the_warm_up_and_the_logging_interval(
    step: int, rarer_class: int, steered: bool, measured: bool
) -> None:
    """Steering needs 10 finished steps and 5 admitted answers of the rarer class; every tenth step is measured."""
    config = small_config()
    losses = dataclasses.replace(config.losses, warmup_steps=10, warmup_per_class=5)
    config = dataclasses.replace(config, losses=losses, logging=Logging(every_steps=10))
    replay = ReplayState(admitted=50, rarer_class=rarer_class, replays=np.zeros(8, np.int32))
    plan = StepPlan.after(step, config, replay, total_steps=40)
    assert plan == StepPlan(number=step + 1, total_steps=40, steered=steered, measured=measured)
