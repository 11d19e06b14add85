"""Optimizers: row-wise Adagrad fused into the tables' backward pass, AdamW for the dense parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from easq_rec.config import Optim
from easq_rec.upstream.torch_adamw import initial_state, step_unless


def learning_rate(config: Optim, step: int, total_steps: int) -> float:
    """Factor of the peak learning rates in step number `step` (from 0): linear warm-up, then constant or cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Optimizers:
    """The optimizer of the tables and that of the dense network.

    The tables are updated in the backward pass, with the learning rate set by `before_step`. `step` updates the dense
    network.
    """

    def __init__(self, model: DistributedModelParallel, config: Optim) -> None:
        self._config = config
        # The tables have an optimizer in their backward pass. Parameters without a gradient are averages.
        dense = in_backward_optimizer_filter(model.named_parameters())
        self.dense = {name: parameter for name, parameter in dense if parameter.requires_grad}
        """The trained parameters of the dense network."""
        self._tables: KeyedOptimizer = model.fused_optimizer
        self._adamw: dict[str, KeyedOptimizerWrapper] = {}
        self._peaks: dict[str, float] = {}
        for name, parameters, peak in _parts(self.dense, config):
            self._peaks[name] = peak
            self._adamw[name] = KeyedOptimizerWrapper(
                parameters,
                lambda params, peak=peak: torch.optim.AdamW(
                    params, lr=peak, weight_decay=config.weight_decay, fused=True
                ),
            )
            # AdamW would create its state at the first gradient of a parameter. A checkpoint is loaded into the state
            # and must be complete even if a part of the model has not been trained yet.
            for parameter in parameters.values():
                self._adamw[name].state[parameter] = initial_state(parameter)
        self.combined = CombinedOptimizer([("tables", self._tables), *self._adamw.items()])

    @property
    def moments(self) -> dict[str, Any]:
        """The state of the tables' optimizer, by parameter: the memory that the kernels update."""
        return self.combined.state_dict()["state"]

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rates of a step; returns their factor."""
        factor = learning_rate(self._config, step, total_steps)
        for group in self._tables.param_groups:
            group["lr"] = self._config.table_lr * factor
        for name, adamw in self._adamw.items():
            for group in adamw.param_groups:
                group["lr"] = self._peaks[name] * factor
        # The fused kernels read their learning rate when their optimizer "steps"; the update is in the backward pass.
        self._tables.step()
        return factor

    @property
    def dense_learning_rate(self) -> float:
        """The current learning rate of the dense parameters."""
        return float(self._adamw["dense"].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Removes the gradients of the dense network."""
        for adamw in self._adamw.values():
            adamw.zero_grad(set_to_none=True)

    def clip(self, norm: Tensor | None) -> None:
        """Clips the gradients of the dense network to norm `optim.clip_norm`, if that is set.

        Args:
            norm: norm of all gradients; None: there are no gradients.
        """
        if self._config.clip_norm is not None and norm is not None:
            nn.utils.clip_grads_with_norm_(self.dense.values(), self._config.clip_norm, norm)

    def step(self, skip: Tensor) -> None:
        """Updates the dense network.

        Args:
            skip: FP32, 1 to change nothing, else 0. It is read on the device.
        """
        for adamw in self._adamw.values():
            step_unless(adamw, skip)


PATHWAY = ("lora", "satisfaction_tower")
"""Parameter groups of the satisfaction pathway."""


def _parts(dense: dict[str, nn.Parameter], config: Optim) -> Iterator[tuple[str, dict[str, nn.Parameter], float]]:
    """(name, parameters, peak learning rate) of each AdamW: one, or a second one for the satisfaction pathway."""
    # Routers use the network's rate: at a low rate, a gate that closes for all inputs in the first steps reopens late.
    pathway = {
        name: value for name, value in dense.items() if parameter_group(name) in PATHWAY and ".router." not in name
    }
    if config.pathway_lr == 1.0 or not pathway:
        yield "dense", dense, config.dense_lr
        return
    yield "dense", {name: value for name, value in dense.items() if name not in pathway}, config.dense_lr
    yield "pathway", pathway, config.dense_lr * config.pathway_lr


def parameter_group(name: str) -> str:
    """Row of the gradient contract for a dense parameter."""
    if ".lora_" in name:
        return "lora"
    if any(f".network.{part}." in name for part in ("main", "wide", "residual")):
        return "main_tower"
    if any(f".network.{part}." in name for part in ("satisfaction", "own", "answer_rates")):
        return "satisfaction_tower"
    if ".network.shared." in name:
        return "shared_experts"
    return "backbone"


def group_norms(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Norm of the gradients of each parameter group."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            gradients.setdefault(parameter_group(name), []).append(parameter.grad)
    return {group: torch.nn.utils.get_total_norm(values) for group, values in gradients.items()}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor | None:
    """Norm of all gradients; None if no parameter has one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else None
