"""A sharded model with its guard in the train pipeline, in which something may be planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.objective import StepOutput
from easq_rec.training.boundary import Boundary
from easq_rec.training.health.finite_check import Guard, Seen
from easq_rec.training.optim import Optimizers
from easq_rec.training.process import Runtime
from easq_rec.training.sharding.tables import shard
from easq_rec.training.training_model import TrainingModel
from tests.builders import random_batch
from tests.poison import Poison

STEPS = 7


class Training:
    """Trains as the trainer does.

    Args:
        planted: by step, "loss" for a batch that makes the loss NaN, "embeddings" for a gradient that is infinite on
            its way to the tables, "network" for one of what the main tower is given.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        directory: Path,
        *,
        planted: dict[int, str] | None = None,
        stops: bool = False,
    ) -> None:
        model = TrainingModel(config, torch.device("meta"))
        network, self._planted, self._config, self.step = model.ranker.network, planted or {}, config, 0
        self.model = shard(model, config, runtime)
        self.guard = Guard(runtime, directory, stops=stops)
        self.optimizers = Optimizers(self.model, config.optim, self.guard.withholds)
        watch = Boundary(self.optimizers.start_averaging, self.guard.clean).watch
        network.watch = lambda embedded: self._poisoned("embeddings", watch(embedded))
        network.main.register_forward_pre_hook(lambda _, inputs: (self._poisoned("network", inputs[0]), *inputs[1:]))
        self.pipeline = TrainPipelineSparseDist(
            self.model, self.optimizers, runtime.device, custom_model_fwd=self._forward
        )
        self.seen: list[Seen] = []
        self.read_after: list[int] = []
        """Steps made when each was read of."""
        self.reported: dict[int, str] = {}
        self.states: list[dict[str, Tensor]] = []

    def _poisoned(self, what: str, value: Tensor) -> Tensor:
        return Poison.apply(value, "inf") if self._planted.get(self.step + 1) == what else value

    def _batch_of(self, step: int) -> RequestBatch:
        batch = random_batch(self._config, step)
        bad = torch.full_like(batch.float_NF, float("nan"))
        return dataclasses.replace(batch, float_NF=bad) if self._planted.get(step) == "loss" else batch

    def _forward(self, batch: RequestBatch | None) -> tuple[Tensor, StepOutput]:
        assert batch is not None
        self._batch = batch
        loss, output = self.model(batch)
        self.guard.look(output, stop=False)
        return loss, output

    def run(self, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """All steps, the step itself in the given context."""
        stream = iter([self._batch_of(step) for step in range(1, STEPS + 1)])
        for step in range(1, STEPS + 1):
            with within():
                self.optimizers.before_step(step - 1, STEPS)
                output = self.pipeline.progress(stream)
                self.step = step
                self.guard.end_step(step, self._batch, output)
                seen = list(self.guard.seen())
            self._note(seen)
            self.states.append(self._state())
        self._note(list(self.guard.seen(all=True)))

    def _note(self, seen: list[Seen]) -> None:
        self.seen += seen
        self.read_after += [self.step] * len(seen)
        self.reported |= {one.step: told for one in seen if (told := self.guard.report(one)) is not None}

    def _state(self) -> dict[str, Tensor]:
        """All that training moves: weights, and what the optimizers remember."""
        state = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        for name, values in self.optimizers.combined.state_dict()["state"].items():
            for key, value in values.items():
                local = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
                state[f"{name} {key}"] = torch.as_tensor(local).clone()
        return state
