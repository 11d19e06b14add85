"""What keeps a loss or a gradient that is not finite out of the model.

A loss is looked at before anything is differentiated, and the ranks agree on it: where it is NaN or infinite on one
rank, the step changes nothing on any. A gradient is looked at where it enters the tables, whose optimizer runs within
the backward pass, and before AdamW's step: what is not finite there becomes 0, or no step at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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


class Guard:
    """Watches the steps of one rank.

    Args:
        directory: takes the offending batches.
    """

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self._runtime = runtime
        self._directory = directory
        self.skipped = 0
        """Steps in which something was not finite, on any rank, as far as the ranks have told each other."""
        self.problem: str | None = None
        """What this rank saw in the step at hand."""

    def watch(self, embedded: Tensor) -> Tensor:
        """What the tables returned; a gradient of it that is not finite is replaced by 0."""
        if embedded.requires_grad:
            embedded.register_hook(self._clean)
        return embedded

    def _clean(self, gradient: Tensor) -> Tensor:
        # One number tells of all, for NaN and infinity survive a sum.
        if math.isfinite(float(gradient.sum())):
            return gradient
        self.problem = self.problem or "the gradient of embeddings"
        return torch.zeros_like(gradient)

    def look(self, output: StepOutput) -> None:
        """At the loss of a step, before it is differentiated."""
        if not math.isfinite(float(output.loss.detach())):
            found = [name for name, value in output.losses.items() if not math.isfinite(float(value))]
            self.problem = f"the loss ({', '.join(found) or 'their weighted sum'})"

    def spares(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether the gradients of dense parameters are finite. They are the same on every rank."""
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
