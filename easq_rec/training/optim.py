"""Optimizers: row-wise Adagrad fused into the tables' backward pass, AdamW for the dense parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from easq_rec.config import Optim
from easq_rec.model.network import RankingNetwork
from easq_rec.training.averaging import Averaging


def learning_rate(config: Optim, step: int, total_steps: int) -> float:
    """Factor of the peak learning rates in step number `step` (from 0): linear warm-up, then constant or cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Optimizers:
    """Both optimizers as the one that the train pipeline drives.

    The tables are updated during backward with the learning rate that `before_step` has set; `step` moves the rest by
    the means of its gradients over the ranks.

    Args:
        withholds: is given the parameters before each step of AdamW, and returns 1 where it is to change nothing.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        config: Optim,
        withholds: Callable[[Iterable[nn.Parameter]], Tensor] | None = None,
    ) -> None:
        self._config = config
        self._withholds = withholds
        self._averaging = Averaging()
        # Parameters with an optimizer in their backward pass are the tables. One without a gradient is an average.
        dense = in_backward_optimizer_filter(model.named_parameters())
        self._dense = {name: parameter for name, parameter in dense if parameter.requires_grad}
        (self._network,) = (module for module in model.modules() if isinstance(module, RankingNetwork))
        self._tables: KeyedOptimizer = model.fused_optimizer
        self._adamw: dict[str, KeyedOptimizerWrapper] = {}
        self._peaks: dict[str, float] = {}
        for name, parameters, peak in _parts(self._dense, config):
            self._peaks[name] = peak
            self._adamw[name] = KeyedOptimizerWrapper(
                parameters,
                lambda params, peak=peak: torch.optim.AdamW(
                    params, lr=peak, weight_decay=config.weight_decay, fused=True
                ),
            )
            _start(self._adamw[name], parameters.values())
        self.combined = CombinedOptimizer([("tables", self._tables), *self._adamw.items()])
        self.measure = False
        """Whether the next step records gradient norms."""
        self.gradient_norms: dict[str, Tensor] = {}
        self.started = 0.0
        """When the last step began, in perf_counter seconds: the end of backward."""

    def before_step(self, step: int, total_steps: int) -> float:
        """Sets the learning rates of a step; returns their factor."""
        factor = learning_rate(self._config, step, total_steps)
        for group in self._tables.param_groups:
            group["lr"] = self._config.table_lr * factor
        for name, adamw in self._adamw.items():
            for group in adamw.param_groups:
                group["lr"] = self._peaks[name] * factor
        # The fused kernels take their learning rate when their optimizer "steps"; the update itself is in backward.
        self._tables.step()
        return factor

    @property
    def dense_learning_rate(self) -> float:
        """The dense parameters' current learning rate."""
        return float(self._adamw["dense"].param_groups[0]["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        for adamw in self._adamw.values():
            adamw.zero_grad(set_to_none)

    def start_averaging(self) -> None:
        """Sends the network's gradients on their way between the ranks as soon as they are complete."""
        if dist.get_world_size() > 1:
            resting = {id(parameter) for parameter in self._network.pathway()} if self._network.rests else set()
            self._averaging.start(value for value in self._dense.values() if id(value) not in resting)

    def step(self, closure: Any = None) -> None:
        self.started = time.perf_counter()
        if dist.get_world_size() > 1:
            if not self._averaging.started:
                self.start_averaging()
            self._averaging.finish()
        if self.measure:
            self.gradient_norms = group_norms(self._dense)
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._dense.values(), self._config.clip_norm)
        withheld = self._withholds(self._dense.values()) if self._withholds is not None else None
        for adamw in self._adamw.values():
            # The flag by which GradScaler tells it of overflow: it is read where the parameters are.
            adamw._optimizer.found_inf = withheld
            adamw.step(closure)


def _start(adamw: KeyedOptimizerWrapper, parameters: Iterable[nn.Parameter]) -> None:
    """Creates AdamW's state as before a first step, which otherwise exists from a parameter's first gradient on.

    A checkpoint is loaded into it, and is whole even where a part of the model has not yet been trained.
    """
    for parameter in parameters:
        adamw.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }


PATHWAY = ("lora", "satisfaction_tower")
"""Parameter groups of the satisfaction pathway."""


def _parts(dense: dict[str, nn.Parameter], config: Optim) -> Iterator[tuple[str, dict[str, nn.Parameter], float]]:
    """(name, parameters, peak learning rate) of each optimizer: one, unless the pathway has a rate of its own."""
    # Routers learn at the rate of the rest: a gate that closes for all inputs in the first steps is long in opening.
    pathway = {
        name: value for name, value in dense.items() if parameter_group(name) in PATHWAY and ".router." not in name
    }
    if config.pathway_lr == 1.0 or not pathway:
        yield "dense", dense, config.dense_lr
        return
    yield "dense", {name: value for name, value in dense.items() if name not in pathway}, config.dense_lr
    yield "pathway", pathway, config.dense_lr * config.pathway_lr


def parameter_group(name: str) -> str:
    """Which row of the gradient contract a dense parameter belongs to."""
    if ".lora_" in name:
        return "lora"
    if ".network.main." in name:
        return "main_tower"
    if ".network.satisfaction." in name or ".network.own." in name:
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
