"""Time of a step by phase: exclusive host seconds of each phase, and the part in which a rank waited for others.

Every wait for another rank goes through `Work.wait`, so all waits are measured.

On CUDA the host waits for the device at each phase boundary: the times are the cost of each phase, not of a step in
which phases overlap. Not yet run there.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.profiler import record_function

from easq_rec.training.loop import Trainer
from easq_rec.upstream.torchrec_pipeline import STAGES

PHASES = (
    "data",
    "host_to_device",
    "ids_exchange",
    "embeddings",
    "dense_forward",
    "losses",
    "backward",
    "optimizer",
    "other",
)
"""In the order of a step: waiting for a batch, its copy, the all-to-all of ids, lookups with the all-to-all of
embeddings, the network, the losses with the exchange of answers between ranks, backward with the all-to-all of the
tables' gradients, the all-reduce of the other gradients with AdamW, and the rest of the loop."""


class Phases:
    """Times the steps of a trainer while `installed`.

    Args:
        clock: seconds since some moment.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._stack: list[str] = []
        self._spans: list[record_function] = []
        self._since = 0.0
        self.seconds: dict[str, float] = defaultdict(float)
        self.waited: dict[str, float] = defaultdict(float)
        """Seconds of each phase spent waiting for other ranks."""

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Assigns the time of the block to the phase, without the time of nested phases."""
        self.enter(phase)
        try:
            yield
        finally:
            self.leave()

    def enter(self, phase: str) -> None:
        self._account()
        self._stack.append(phase)
        # The span in a trace.
        self._spans.append(record_function(f"## {phase} ##"))
        self._spans[-1].__enter__()

    def leave(self) -> None:
        self._account()
        self._stack.pop()
        self._spans.pop().__exit__(None, None, None)

    def _account(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def installed(self, trainer: Trainer) -> Iterator[None]:
        """Instruments the parts of the trainer's step; the end of the block restores them."""
        setup = trainer.setup
        step, pipeline = setup.train_step, setup.train_step.pipeline
        with contextlib.ExitStack() as stack:
            for name, phase in STAGES.items():
                if hasattr(pipeline, name):
                    stack.enter_context(self._wrapped(pipeline, name, phase))
            stack.enter_context(self._wrapped(step, "step", "optimizer"))
            stack.enter_context(self._wrapped(step.optimizers, "before_step", "optimizer"))
            stack.enter_context(self._wrapped(torch.Tensor, "backward", "backward"))
            stack.enter_context(self._wrapped(dist.Work, "wait", None))
            for module, phase in (
                (setup.ranker.embeddings, "embeddings"),
                (setup.ranker.network, "dense_forward"),
                (setup.objective, "losses"),
            ):
                stack.enter_context(self._hooked(module, phase))
            with self.within("other"):
                yield

    @contextlib.contextmanager
    def _wrapped(self, owner: Any, name: str, phase: str | None) -> Iterator[None]:
        """Times a method as a phase; None: as waiting in the calling phase."""
        own = name in vars(owner)
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if phase is not None:
                with self.within(phase):
                    return method(*args, **kwargs)
            begin = self._clock()
            try:
                return method(*args, **kwargs)
            finally:
                if self._stack:
                    self.waited[self._stack[-1]] += self._clock() - begin

        setattr(owner, name, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, method)
            else:
                delattr(owner, name)

    @contextlib.contextmanager
    def _hooked(self, module: torch.nn.Module, phase: str) -> Iterator[None]:
        handles = (
            module.register_forward_pre_hook(lambda *_: self.enter(phase)),
            module.register_forward_hook(lambda *_: self.leave()),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
