"""Saves a trained state under several plans, or loads saved states under every plan.

    torchrun --standalone --nproc_per_node N tests/distributed/worker_checkpoint.py save|load|load-all DIRECTORY

DIRECTORY/N-PLAN holds the checkpoints; DIRECTORY/N-PLAN.pt is the state of N ranks as whole tensors, and
DIRECTORY/N-PLAN-from-SOURCE.pt is the state after loading SOURCE.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from easq_rec.config import Config, Optim, Sharding, TableSharding
from easq_rec.data.loader import LoaderState
from easq_rec.run_directory.progress_file import Progress
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.process import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding.tables import plan_table, shard
from easq_rec.training.step import TrainingStep
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor
from tests.builders import random_batch, small_config
from tests.distributed.worker_equivalence import WIDE, moments, whole

SEQUENCE = ("video", "author")
SPLIT = ("user", "age_group", "region", "device", "video", "author", "tag")
"""Wide enough to be split by columns."""
HALF = ("age_group", "author", "satisfaction_tag")
"""Stored in FP16."""
PLANS = ("tables", "rows", "columns")
RANKS = (1, 2, 4)
State = tuple[int, str]
"""A number of ranks and a plan."""
STATES: tuple[State, ...] = tuple(itertools.product(RANKS, PLANS))
STEPS = 3


def in_the_third(source: State, target: State) -> bool:
    """Whether `load` loads `source` under `target`: a third of all pairs, in which every two numbers of ranks meet
    under three pairs of plans, and every two plans on three pairs of numbers of ranks."""
    ranks = RANKS.index(source[0]) + RANKS.index(target[0])
    return (PLANS.index(source[1]) + ranks) % len(PLANS) == PLANS.index(target[1])


def config_of(plan: str) -> Config:
    """The config of the same model for every plan; only the sharding of its tables differs."""
    config = small_config()
    tables = tuple(
        dataclasses.replace(table, dim=WIDE) if table.name in SPLIT else table for table in config.schema.tables
    )
    schema = dataclasses.replace(config.schema, tables=tables)
    types = {table.name: "table_wise" for table in (*schema.tables, *schema.satisfaction_tables)}
    if plan == "rows":
        types |= dict.fromkeys(SEQUENCE, "row_wise")
    if plan == "columns":
        types |= dict.fromkeys(SPLIT, "column_wise")
    stored = {name: TableSharding(type=kind, weights="fp16" if name in HALF else None) for name, kind in types.items()}
    return dataclasses.replace(
        config,
        schema=schema,
        sharding=Sharding(tables=stored),
        optim=Optim(table_lr=0.05, dense_lr=1e-2, warmup_steps=0),
    )


class Run:
    """A model on all ranks."""

    def __init__(self, plan: str, runtime: Runtime) -> None:
        self.config = config_of(plan)
        model = TrainingModel(self.config, torch.device("meta"), ProcessGroupRanks(runtime))
        self.model = shard(model, self.config, runtime)
        finite_check = FiniteCheck(runtime, Path("not_finite"), stops=False)
        self.train_step = TrainingStep(self.model, self.config.optim, runtime, finite_check)
        self.optimizers = self.train_step.optimizers

    def train(self, runtime: Runtime) -> None:
        for step in range(STEPS):
            self.optimizers.before_step(step, STEPS)
            self.train_step.zero_grad()
            loss, _ = self.train_step.forward(random_batch(self.config, seed=step * runtime.world_size + runtime.rank))
            loss.backward()
            self.train_step.step()

    def state(self) -> dict[str, Any]:
        """Whole tables and their moments, dense parameters and their AdamW state, and the plan."""
        values = self.model.state_dict()
        tables = whole({name: value for name, value in values.items() if isinstance(value, ShardedTensor)})
        dense = {name: value.detach().clone() for name, value in values.items() if name not in tables}
        states = self.optimizers.combined.state_dict()["state"]
        adamw = {
            f"{name}.{key}": value.clone()
            for name, state in states.items()
            for key, value in state.items()
            if isinstance(value, Tensor) and not isinstance(value, ShardedTensor)
        }
        return {
            "tables": tables,
            "moments": moments(self.model),
            "dense": dense,
            "adamw": adamw,
            "plan": plan_table(self.model),
        }


def main(what: str, directory: Path) -> None:
    warnings.simplefilter("ignore")
    with running(config_of("tables").trainer) as runtime:
        ranks = runtime.world_size
        for plan in PLANS:
            name = f"{ranks}-{plan}"
            run = Run(plan, runtime)
            if what == "save":
                run.train(runtime)
                progress = Progress(step=STEPS, loader=LoaderState())
                checkpoints = Checkpointer(directory / name, run.config, runtime)
                checkpoints.save(run.model, run.optimizers, progress, background=True)
                checkpoints.wait()
                write(run.state(), directory / f"{name}.pt")
                continue
            for source in STATES:
                if what == "load" and not in_the_third(source, (ranks, plan)):
                    continue
                saved = f"{source[0]}-{source[1]}"
                checkpoints = Checkpointer(directory / saved, run.config, runtime)
                path = checkpoints.latest()
                assert path is not None
                checkpoints.load(path, run.model, run.optimizers)
                write(run.state(), directory / f"{name}-from-{saved}.pt")


def write(state: dict[str, Any], path: Path) -> None:
    if dist.get_rank() == 0:
        torch.save(state, path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
