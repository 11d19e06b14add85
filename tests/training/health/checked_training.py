"""Training of a sharded model with finite checks. A batch or a gradient can be made non-finite at given steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.model.network import NetworkOutput
from easq_rec.training.health.finite_check import FiniteCheck, StepOutcome
from easq_rec.training.process import Runtime
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import StepPlan, TrainingStep
from easq_rec.training.training_model import TrainingModel
from tests.builders import random_batch
from tests.poison import Poison

STEPS = 7


class CheckedTraining:
    """Trains a sharded model as the trainer does.

    Args:
        planted: what is not finite, by step: "loss" for a batch that makes the loss NaN, "embeddings" for infinite
            gradients of the outputs of the tables, "network" for an infinite gradient of the input of the main tower.
        stops: whether the run is to stop at such a step.
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
        torch.manual_seed(0)
        model = TrainingModel(config, torch.device("meta"))
        network, self._planted, self._config, self.step = model.ranker.network, planted or {}, config, 0
        self.model = shard(model, config, runtime)
        self.finite_check = FiniteCheck(runtime, directory, stops=stops)
        self.train_step = TrainingStep(self.model, config.optim, runtime, self.finite_check)
        network.register_forward_hook(lambda module, inputs, output: self._poison_embeddings(output))
        network.main.register_forward_pre_hook(lambda _, inputs: (self._poison_network(inputs[0]), *inputs[1:]))
        self.outcomes: list[StepOutcome] = []
        self.read_after: list[int] = []
        """Number of finished steps when each outcome was read."""
        self.reported: dict[int, str] = {}
        self.states: list[dict[str, Tensor]] = []

    def _poison_embeddings(self, output: NetworkOutput) -> None:
        # This hook runs before that of the training step, which is registered later.
        if self._planted.get(self.step + 1) == "embeddings":
            for embedded in output.embedded:
                embedded.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))

    def _poison_network(self, h_ND: Tensor) -> Tensor:
        return Poison.apply(h_ND, "inf") if self._planted.get(self.step + 1) == "network" else h_ND

    def _batch_of(self, step: int) -> RequestBatch:
        batch = random_batch(self._config, step)
        bad = torch.full_like(batch.float_NF, float("nan"))
        return dataclasses.replace(batch, float_NF=bad) if self._planted.get(step) == "loss" else batch

    def run(self, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        """Runs all steps, each in the given context."""
        stream = iter([self._batch_of(step) for step in range(1, STEPS + 1)])
        for step in range(1, STEPS + 1):
            with within():
                self.train_step(stream, StepPlan(number=step, total_steps=STEPS))
                self.step = step
                outcomes = list(self.finite_check.outcomes())
            self._note(outcomes)
            self.states.append(self._state())
        self._note(list(self.finite_check.outcomes(wait=True)))

    def _note(self, outcomes: list[StepOutcome]) -> None:
        self.outcomes += outcomes
        self.read_after += [self.step] * len(outcomes)
        reports = {outcome.step: self.finite_check.report(outcome) for outcome in outcomes}
        self.reported |= {step: text for step, text in reports.items() if text is not None}

    def _state(self) -> dict[str, Tensor]:
        """Everything that training changes: weights, the routers' buffers and optimizer states."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        for name, values in self.train_step.optimizers.combined.state_dict()["state"].items():
            for key, value in values.items():
                local = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
                state[f"{name} {key}"] = torch.as_tensor(local).clone()
        return state
