"""The options of the tables reach the sharded tables and their optimizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from easq_rec.config import Config, TrainerConfig
from easq_rec.training.process import running
from tests.builders import small_config
from tests.training.health.checked_training import CheckedTraining


def tables(config: Config, directory: Path, *, trained: bool) -> dict[str, Tensor]:
    """The values of the sharded tables, before or after some steps."""
    with running(TrainerConfig(device="cpu", threads=1)) as runtime:
        training = CheckedTraining(config, runtime, directory)
        if trained:
            training.run()
        state = training.model.state_dict()
        return {name: value.local_shards()[0].tensor.clone() for name, value in state.items() if ".embeddings." in name}


def test_initial_rows_have_the_standard_deviation_of_the_config(tmp_path: Path) -> None:
    config = small_config()
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, table_std=0.01))
    one, other = (tables(each, tmp_path, trained=False) for each in (config, small))
    assert len(one) > 3
    for name, value in one.items():
        torch.testing.assert_close(other[name], value * 0.01 / config.model.table_std, rtol=1e-6, atol=0.0)


def test_a_large_eps_keeps_rows_at_their_start(tmp_path: Path) -> None:
    config = small_config()
    still = dataclasses.replace(config, optim=dataclasses.replace(config.optim, table_eps=1e9))
    start, moved, kept = (
        tables(each, tmp_path, trained=trained) for each, trained in ((config, False), (config, True), (still, True))
    )
    for name, value in start.items():
        torch.testing.assert_close(kept[name], value, rtol=0.0, atol=1e-8)
        assert not torch.equal(moved[name], value)
