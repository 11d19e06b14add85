"""A row that another id gets starts anew: weights and moments, in all tables that have it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from easq_rec.config import Config
from easq_rec.data.id_map import IdChanges
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.process import Runtime, quiet
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import StepPlan, TrainingStep
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor
from tests.builders import random_batch, small_config

RESET = [1, 5, 30]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def admitted(config: Config) -> Config:
    tables = tuple(
        dataclasses.replace(table, rows=33, id_space="admitted") if table.name == "video" else table
        for table in config.schema.tables
    )
    return dataclasses.replace(config, schema=dataclasses.replace(config.schema, tables=tables))


def changes_of(rows: list[int]) -> IdChanges:
    nothing = np.zeros(0, np.int64)
    return IdChanges(
        table="video",
        step=3,
        used=np.array(rows),
        row=np.array(rows),
        id=np.array(rows) + 100,
        reset=np.array(rows),
        place=nothing,
        waiting=nothing,
        seen=nothing.astype(np.int32),
        shared=0.0,
    )


def test_a_step_resets_rows_before_it_trains(runtime: Runtime, tmp_path: Path) -> None:
    """A moment that was not reset could only grow."""
    config = admitted(small_config())
    sharded = shard(TrainingModel(config, torch.device("meta")), config, runtime)
    step = TrainingStep(sharded, config.optim, runtime, FiniteCheck(runtime, tmp_path, stops=False))
    batch = random_batch(config)
    for part in (batch.user, batch.sequence, batch.candidate):
        assert part is not None
        part.values().remainder_(31)
    (moment,) = (
        value.local_shards()[0].tensor
        for state in step.optimizers.moments.values()
        for key, value in state.items()
        if key == "video.momentum1"
    )
    moment.fill_(7.0)
    step(iter([dataclasses.replace(batch, id_changes=(changes_of(RESET),))]), StepPlan(number=1, total_steps=2))
    assert bool((moment[RESET] < 7).all())
    assert bool((moment[[row for row in range(33) if row not in RESET]] >= 7).all())


def test_weights_and_moments_of_a_reset_row_are_zero(runtime: Runtime, tmp_path: Path) -> None:
    config = admitted(small_config())
    model = TrainingModel(config, torch.device("meta"))
    sharded = shard(model, config, runtime)
    step = TrainingStep(sharded, config.optim, runtime, FiniteCheck(runtime, tmp_path, stops=False))
    # Every row gets a moment: the batches' ids, which no map has admitted here, are taken as rows.
    batch = random_batch(config)
    for part in (batch.user, batch.sequence, batch.candidate):
        assert part is not None
        part.values().remainder_(31)
    step.optimizers.before_step(0, 1)
    step(iter([batch] * 2), StepPlan(number=1, total_steps=2))
    weights = {
        name.split(".")[-2]: value.local_shards()[0].tensor
        for name, value in sharded.state_dict().items()
        if isinstance(value, ShardedTensor)
    }
    moments = {
        key.removesuffix(".momentum1"): value.local_shards()[0].tensor
        for state in step.optimizers.moments.values()
        for key, value in state.items()
        if key.endswith(".momentum1")
    }
    for moment in moments.values():
        moment.fill_(7.0)
    before = {name: weight.clone() for name, weight in weights.items()}
    step._reset_rows([changes_of(RESET)])
    others = [row for row in range(33) if row not in RESET]
    for name in ("video", "satisfaction_video"):
        assert not weights[name][RESET].any() and not moments[name][RESET].any()
        assert torch.equal(weights[name][others], before[name][others]) and bool((moments[name][others] == 7).all())
    for name in set(weights) - {"video", "satisfaction_video"}:
        assert torch.equal(weights[name], before[name]) and bool((moments[name] == 7).all())
    # The kernels read the same memory.
    step._ids.apply_changes([changes_of(RESET)])
    model.eval()
    sequence = sharded.module.ranker.embeddings.sequence(batch.sequence)["candidate.video_id"]
    asked = torch.isin(batch.sequence["candidate.video_id"].values(), torch.tensor(RESET))
    assert bool(asked.any()) and not sequence.values()[asked].any() and bool(sequence.values()[~asked].any())
