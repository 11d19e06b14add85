"""The learning-rate schedule, compared with values computed by hand, and which parameters training changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config import Config, Optim
from easq_rec.data.batch import RequestBatch
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.optim import learning_rate, parameter_group
from easq_rec.training.process import Runtime, quiet
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import StepPlan, StepResult, TrainingStep
from easq_rec.training.training_model import TrainingModel
from tests.builders import random_batch, small_config

STEPS = 12


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (6, 0.8681981), (8, 0.55), (10, 0.2318019), (12, 0.1), (99, 0.1)],
)
def test_the_cosine_schedule_with_warm_up(step: int, expected: float) -> None:
    """The rate rises for four steps, and falls from 1 to 0.1 over the other eight: 0.1 + 0.45 (1 + cos(pi k / 8))."""
    config = Optim(warmup_steps=4, schedule="cosine")
    assert learning_rate(config, step, total_steps=12) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.25), (2, 0.75), (3, 1.0), (4, 1.0), (50, 1.0)])
def test_the_constant_schedule_with_warm_up(step: int, expected: float) -> None:
    config = Optim(warmup_steps=4, schedule="constant")
    assert learning_rate(config, step, total_steps=12) == pytest.approx(expected)


def test_without_warm_up_the_schedule_starts_at_its_peak() -> None:
    assert learning_rate(Optim(warmup_steps=0), 0, total_steps=10) == 1.0
    assert learning_rate(Optim(warmup_steps=0), 5, total_steps=10) == pytest.approx(0.55)


@pytest.mark.parametrize("total_steps", [0, 3, 4])
def test_a_run_may_end_during_its_warm_up(total_steps: int) -> None:
    """There is no division by zero, and the rate never exceeds its peak."""
    config = Optim(warmup_steps=4, schedule="cosine")
    assert learning_rate(config, 3, total_steps) == 1.0
    assert 0.1 <= learning_rate(config, 4, total_steps) <= 1.0


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Training:
    """A sharded model and its training step."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self.model: DistributedModelParallel = shard(TrainingModel(config, torch.device("meta")), config, runtime)
        finite_check = FiniteCheck(runtime, Path("not_finite"), stops=False)
        self.train_step = TrainingStep(self.model, config.optim, runtime, finite_check)
        self.optimizers = self.train_step.optimizers

    def run(self, batches: list[RequestBatch], *, measured: bool = False) -> StepResult:
        """Trains one step per batch. Returns the result of the last step."""
        stream = iter(batches)
        for number in range(1, len(batches) + 1):
            result = self.train_step(stream, StepPlan(number=number, total_steps=STEPS, measured=measured))
        return result

    def parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}


def rows_read(config: Config, batches: list[RequestBatch], *, stream_only: bool) -> dict[str, set[int]]:
    """Rows of each table that requests read. Without L_point, only requests with at least two candidates form pairs."""
    schema = config.schema
    rows: dict[str, set[int]] = {table.name: set() for table in (*schema.tables, *schema.satisfaction_tables)}
    for batch in batches:
        counts = batch.candidate_offsets_R1.diff().tolist()
        last = batch.stream.requests if stream_only else batch.total.requests
        least = 1 if config.losses.pointwise.weight else 2
        requests = [request for request in range(last) if counts[request] >= least]
        for group, kjt in (("user", batch.user), ("", batch.sequence), ("candidate", batch.candidate)):
            assert kjt is not None
            owners = np.repeat(np.arange(len(counts)), counts) if group == "candidate" else np.arange(len(counts))
            for key, values in kjt.to_dict().items():
                side, name = key.split(".")
                features = schema.satisfaction_ids if side == "satisfaction" else getattr(schema, side)
                feature = next(f for f in features if f.name == name)
                for at, owner in enumerate(owners):
                    if owner in requests:
                        first, end = values.offsets()[at], values.offsets()[at + 1]
                        rows[str(feature.table)].update(values.values()[first:end].tolist())
    return rows


def everything_read(table: str, config: Config, batches: list[RequestBatch]) -> set[int]:
    """Rows of a table of the satisfaction tower that any candidate reads."""
    (feature,) = (feature for feature in config.schema.satisfaction_ids if feature.table == table)
    kjts = [batch.candidate for batch in batches if batch.candidate is not None]
    return {row for kjt in kjts for row in kjt[f"satisfaction.{feature.name}"].values().tolist()}


@pytest.mark.parametrize("recipe", ["everything", "paper", "main_only"])
def test_training_changes_all_dense_parameters_and_the_rows_that_are_read(runtime: Runtime, recipe: str) -> None:
    """Some steps on random batches change every dense parameter, in all experts and adapters.

    A row of a table changes if a request of the stream reads it. A row of an isolated embedding that only replayed
    requests read does not change, nor does a row that no request reads. Rows of the satisfaction tower's tables change
    if their candidate was answered or has evidence.
    """
    config = small_config(recipe)
    training = Training(config, runtime)
    before = training.parameters()
    batches = [random_batch(config, seed) for seed in range(STEPS)]
    training.run(batches)
    after = training.parameters()
    tables = {name.split(".")[-2]: name for name in before if ".embeddings." in name}
    own = {table.name for table in config.schema.satisfaction_tables}
    assert tables.keys() == {table.name for table in config.schema.tables} | own and bool(own) == (
        recipe == "everything"
    )
    for name in before.keys() - set(tables.values()):
        # A head's bias changes all scores equally, so it has no effect on losses of score differences.
        if not name.endswith("head.bias"):
            still = after[name] == before[name]
            assert not still.all(), name
            if name.endswith(("_KHD", "_KH", "_KOH", "_KO", "lora_a", "router.weight", "user_feature_UD")):
                # Every expert, every direction of an adapter and every user feature must change.
                assert not still.flatten(1).all(1).any(), f"a part of {name} has not changed"
    certain = rows_read(config, batches, stream_only=True)
    possible = rows_read(config, batches, stream_only=False) if recipe == "paper" else certain
    for table, name in tables.items():
        moved = set((after[name] != before[name]).any(1).nonzero().flatten().tolist())
        # A request whose candidates all have the same utility forms no pair of L_main. L_dense has no ties. Without
        # L_dense, rows that only such requests read may therefore stay unchanged.
        if table in own:
            assert moved and moved <= everything_read(table, config, batches), table
        elif recipe == "everything":
            assert moved == certain[table], table
        else:
            assert moved <= possible[table], table
            assert len(moved) > 0.8 * len(certain[table]), table


def test_learning_rates_reach_both_optimizers(runtime: Runtime) -> None:
    """The first step of both optimizers is about the learning rate times a sign, so it is proportional to the rate."""
    config = small_config()
    moves = []
    for warmup in (1, 4):
        training = Training(dataclasses.replace(config, optim=Optim(warmup_steps=warmup)), runtime)
        before = training.parameters()
        training.run([random_batch(config, 0)])
        after = training.parameters()
        assert training.optimizers.dense_learning_rate == pytest.approx(1e-3 / warmup)
        moves.append({name: (after[name] - before[name]).abs().max() for name in before})
    assert len({name for name in moves[0] if ".embeddings." in name}) == 10
    for name, move in moves[0].items():
        torch.testing.assert_close(moves[1][name] * 4, move, rtol=1e-2, atol=1e-6, msg=name)


def test_clipping_bounds_the_dense_gradient(runtime: Runtime) -> None:
    """AdamW's first step does not depend on the scale of the gradient. Its first moment is (1 - beta1) times it."""
    config = small_config()
    norms = []
    for bound in (None, 1e-3):
        training = Training(dataclasses.replace(config, optim=Optim(clip_norm=bound, warmup_steps=0)), runtime)
        training.run([random_batch(config, 0)])
        states = training.optimizers.combined.state_dict()["state"].values()
        moments = [state["exp_avg"] for state in states if "exp_avg" in state]
        norms.append(float(torch.stack([moment.norm() for moment in moments]).norm()) / 0.1)
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_weight_decay_is_decoupled(runtime: Runtime) -> None:
    """A parameter whose gradient is 0 shrinks by the factor 1 - lr * decay."""
    config = dataclasses.replace(small_config(), optim=Optim(dense_lr=0.1, weight_decay=0.5, warmup_steps=0))
    training = Training(config, runtime)
    with torch.no_grad():
        bias = next(p for name, p in training.model.named_parameters() if name.endswith("satisfaction.head.bias"))
        bias.fill_(2.0)
    training.run([random_batch(config, 0, answered=0)])
    assert float(bias.detach()) == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_weight_decay_does_not_change_tables(runtime: Runtime) -> None:
    """In the first step, tables with and without weight decay of the network are equal."""
    config = small_config()
    tables = []
    for decay in (0.0, 0.5):
        training = Training(dataclasses.replace(config, optim=Optim(weight_decay=decay, warmup_steps=0)), runtime)
        training.run([random_batch(config, 0)])
        values = training.model.named_parameters()
        tables.append({name: value.detach().clone() for name, value in values if ".embeddings." in name})
    without, decayed = tables
    assert without and all(torch.equal(value, decayed[name]) for name, value in without.items())


def test_gradient_norms_are_measured_for_each_parameter_group(runtime: Runtime) -> None:
    """If a step is measured, the norms of all groups are measured before clipping."""
    config = small_config()
    training = Training(dataclasses.replace(config, optim=Optim(clip_norm=1e-3, warmup_steps=0)), runtime)
    names = [name for name, _ in training.model.named_parameters() if ".embeddings." not in name]
    groups = {parameter_group(name) for name in names}
    assert groups == {"lora", "main_tower", "satisfaction_tower", "backbone"}
    norms = training.run([random_batch(config, 0)], measured=True).gradient_norms
    assert norms.keys() == groups
    assert all(float(norm) > 0 for norm in norms.values())
    assert float(torch.stack(list(norms.values())).norm()) > 0.01


def test_the_pathway_may_have_a_separate_learning_rate(runtime: Runtime) -> None:
    """AdamW's first step equals its learning rate. With a factor of 3, only the pathway's step is 3 times as large."""
    config = small_config()
    steps = {}
    for factor in (1.0, 3.0):
        optim = dataclasses.replace(config.optim, pathway_lr=factor, dense_lr=1e-3)
        training = Training(dataclasses.replace(config, optim=optim), runtime)
        before = {name: value.clone() for name, value in training.model.named_parameters() if "embeddings" not in name}
        training.run([random_batch(config)])
        after = dict(training.model.named_parameters())
        steps[factor] = {name: (after[name] - value).detach().abs().max() for name, value in before.items()}
    pathway = {name for name in steps[1.0] if parameter_group(f".{name}") in ("lora", "satisfaction_tower")}
    routers = {name for name in pathway if ".router." in name}
    assert len(pathway) > 20 and len(routers) == 1
    for name, step in steps[1.0].items():
        expected = 3.0 * step if name in pathway - routers else step
        torch.testing.assert_close(steps[3.0][name], expected, rtol=1e-3, atol=1e-7, msg=name)


def test_the_initial_state_equals_that_of_a_new_adamw(runtime: Runtime) -> None:
    """AdamW creates a missing state in its first step. Ours exists before it, and must give the same first steps."""
    config = small_config()
    ours, fresh = Training(config, runtime), Training(config, runtime)
    state = ours.optimizers.combined.state_dict()["state"]
    dense = [name for name, _ in ours.model.named_parameters() if ".embeddings." not in name]
    assert dense and all(f"dense.{name}" in state for name in dense)
    for adamw in fresh.optimizers._adamw.values():
        adamw.state.clear()
    for training in (ours, fresh):
        training.run([random_batch(config, 0), random_batch(config, 1)])
    for (name, value), other in zip(ours.model.named_parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(value, other), name
