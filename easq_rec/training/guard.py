"""What keeps a loss or a gradient that is not finite out of the model.

The ranks tell each other whether their loss is finite while they differentiate it, and hear of it before the tables,
whose optimizer runs within the backward pass, are given a gradient: where it is NaN or infinite on one rank, the step
changes nothing on any. A gradient is looked at where it enters the tables, and before AdamW's step: what is not finite
there becomes 0, or no step at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from easq_rec.data.batch import RequestBatch
from easq_rec.model import StepOutput
from easq_rec.training.runtime import Runtime

SHOWN = 5
"""Request ids in a message."""


class NotFinite(ValueError):
    """A loss or a gradient was NaN or infinite, and the run is configured to stop there."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the ranks have told each other in a step, the same on all of them."""

    bad: bool
    """The loss of one is not finite."""
    spoilt: bool
    """In the step before, one had a gradient that is not, and the run is to stop then."""
    stop: bool
    """One was told to stop."""

    @property
    def void(self) -> bool:
        """Whether the step is to change nothing."""
        return self.bad or self.spoilt


class Guard:
    """Watches the steps of one rank.

    Args:
        directory: takes the offending batches.
    """

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self._runtime = runtime
        self._directory = directory
        self._asked: Callable[[], list[int]] = lambda: [False] * 3
        self.skipped = 0
        """Steps in which something was not finite, on any rank, as far as the ranks have told each other."""
        self.problem: str | None = None
        """What this rank saw in the step at hand."""

    def look(self, output: StepOutput, *, spoilt: bool, stop: bool) -> None:
        """At the loss of a step, before it is differentiated; tells the other ranks, without waiting for them."""
        if not math.isfinite(float(output.loss.detach())):
            found = [name for name, value in output.losses.items() if not math.isfinite(float(value))]
            self.problem = f"the loss ({', '.join(found) or 'their weighted sum'})"
        flags = [self.problem is not None, spoilt, stop]
        self._asked = (
            self._runtime.ask(*flags) if self._runtime.world_size > 1 else lambda: [int(flag) for flag in flags]
        )

    def verdict(self) -> Verdict:
        """On the step that was looked at last; waits until all ranks have looked at it."""
        bad, spoilt, stop = map(bool, self._asked())
        return Verdict(bad=bad, spoilt=spoilt, stop=stop)

    def clean(self, gradient: Tensor) -> Tensor:
        """A gradient on its way to the tables; 0 in its place where it is not finite, or the step is void."""
        if self.verdict().void:
            return torch.zeros_like(gradient)
        # One number tells of all, for NaN and infinity survive a sum.
        if math.isfinite(float(gradient.sum())):
            return gradient
        self.problem = self.problem or "the gradient of embeddings"
        return torch.zeros_like(gradient)

    def spares(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether AdamW may step: gradients are finite, which are the same on every rank, and the step is not void."""
        if self.verdict().void:
            return False
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients or math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
            return True
        self.problem = self.problem or "the gradient of the network"
        return False

    def write(self, step: int, batch: RequestBatch, output: StepOutput) -> str:
        """Writes this rank's batch of a step in which it saw something; says what, and where the batch is."""
        assert self.problem is not None
        rank = self._runtime.rank
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"step_{step:08d}_rank_{rank}.pt"
        losses = {name: float(value) for name, value in output.losses.items()}
        torch.save({"step": step, "rank": rank, "problem": self.problem, "losses": losses, "batch": batch}, path)
        ids = batch.keys.request_id_R.tolist()
        more = f", ... ({len(ids)} in all)" if len(ids) > SHOWN else ""
        shown = ", ".join(map(str, ids[:SHOWN])) + more
        told = f"step {step}, rank {rank}: {self.problem} is not finite; the batch, requests {shown}, is in {path}"
        self.problem = None
        return told
