"""What keeps a loss or a gradient that is not finite out of the model.

The ranks tell each other whether their loss is finite while they differentiate it, and hear of it before the tables,
whose optimizer runs within the backward pass, are given a gradient: where it is NaN or infinite on one rank, the step
changes nothing on any. A gradient is looked at where it enters the tables, and before AdamW's step: what is not finite
there becomes 0, or no step at all.

All of it is decided where the numbers are. A host that read them from a GPU would wait for all that it has given it to
do; so it reads of each step when it has given it the next one.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from easq_rec.data.batch import RequestBatch
from easq_rec.losses.objective import StepOutput
from easq_rec.losses.ranks import Pending
from easq_rec.run_directory.events import event
from easq_rec.training.process import Runtime

SHOWN = 5
"""Request ids in a message."""


class NotFinite(ValueError):
    """A loss or a gradient was NaN or infinite, and the run is configured to stop there."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What became of a step. The first three the ranks have told each other: they are the same on all."""

    step: int
    bad: bool
    """The loss of one is not finite, and the step changed nothing."""
    spoilt: bool
    """In the step before, one had a gradient that is not, and the run is to stop then: this step changed nothing."""
    stop: bool
    """One was told to stop."""
    problem: str | None
    """What this rank saw."""
    batch: RequestBatch
    losses: dict[str, Tensor]


class Guard:
    """Watches the steps of one rank.

    Args:
        directory: takes the offending batches.
        stops: whether the run is to stop where something is not finite, and not to skip that step.
    """

    def __init__(self, runtime: Runtime, directory: Path, *, stops: bool) -> None:
        self._runtime = runtime
        self._directory = directory
        self._stops = stops
        self._behind = behind(runtime.device)
        self._no = torch.zeros((), dtype=torch.bool, device=runtime.device)
        self._asked: Pending = lambda: self._no.expand(3)
        self._loss = self._embeddings = self._network = self._no
        """What this rank saw in the step at hand: whether something is not finite."""
        self._unread: deque[tuple[int, RequestBatch, dict[str, Tensor], Flags]] = deque()
        self.spoilt: str | None = None
        """What this rank saw, if the run is to stop for it."""
        self.skipped = 0
        """Steps in which something was not finite, on any rank, as far as the ranks have told each other."""

    def look(self, output: StepOutput, *, stop: bool) -> None:
        """At the loss of a step, before it is differentiated; tells the other ranks, without waiting for them.

        Args:
            stop: whether this process was told to stop.
        """
        spoilt = (self._embeddings | self._network) if self._stops else self._no
        self._loss = ~output.loss.detach().isfinite()
        self._embeddings = self._network = self._no
        flags = torch.stack([self._loss, spoilt, torch.full_like(self._no, stop)])
        self._asked = self._runtime.start_any(flags)

    def clean(self, gradient: Tensor) -> Tensor:
        """A gradient on its way to the tables; 0 in its place where it is not finite, or the step is void."""
        # One number tells of all, for NaN and infinity survive a sum.
        bad, void = ~gradient.sum().isfinite(), self._void()
        self._embeddings = self._embeddings | (bad & ~void)
        if self._behind:
            return gradient.masked_fill(bad | void, 0)
        return torch.zeros_like(gradient) if bad or void else gradient

    def withholds(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """1 where AdamW is to leave everything as it is, else 0: a gradient is not finite, which are the same on every
        rank, or the step is void."""
        void = self._void()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            self._network = ~torch.nn.utils.get_total_norm(gradients).isfinite() & ~void
        return (self._network | void).float()

    def _void(self) -> Tensor:
        """Whether the step is to change nothing, for what the ranks have told each other."""
        bad, spoilt, _ = self._asked()
        return bad | spoilt

    def end_step(self, step: int, batch: RequestBatch, output: StepOutput) -> None:
        """Of what was looked at since the last call of `look`."""
        flags = torch.stack([*self._asked(), self._loss, self._embeddings, self._network])
        self._unread.append((step, batch, output.losses, Flags(flags)))

    def seen(self, *, all: bool = False) -> Iterator[Seen]:
        """The steps of which the host can read without waiting, each once and in their order; `all`: waits for them."""
        while len(self._unread) > (0 if all else self._behind):
            step, batch, losses, flags = self._unread.popleft()
            bad, spoilt, stop, loss, embeddings, network = flags.read()
            problem = None
            if loss:
                found = [name for name, value in losses.items() if not math.isfinite(float(value))]
                problem = f"the loss ({', '.join(found) or 'their weighted sum'})"
            elif embeddings or network:
                problem = f"the gradient of {'embeddings' if embeddings else 'the network'}"
            yield Seen(step=step, bad=bad, spoilt=spoilt, stop=stop, problem=problem, batch=batch, losses=losses)

    def report(self, seen: Seen) -> str | None:
        """Says what was not finite in a step, if anything was; returns it where the run is to stop there.

        Where this rank alone saw something, in its gradients, it keeps it as `spoilt`: the others hear of it in the
        next step, which is void, and all stop in the same one.
        """
        if seen.spoilt:
            return self.spoilt or elsewhere(seen.step - 1)
        if seen.problem is None and not seen.bad:
            return None
        self.skipped += 1
        problem = f"step {seen.step}: the loss is not finite on another rank"
        if seen.problem is not None:
            problem = self._write(seen)
            print(f"easq-rec: {problem}", file=sys.stderr, flush=True)
            event("not_finite", level=logging.WARNING, step=seen.step, problem=problem)
        if self._stops:
            self.spoilt = problem
        return self.spoilt if seen.bad else None

    def _write(self, seen: Seen) -> str:
        """Writes this rank's batch of a step in which it saw something; says what, and where the batch is."""
        step, rank = seen.step, self._runtime.rank
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"step_{step:08d}_rank_{rank}.pt"
        losses = {name: float(value) for name, value in seen.losses.items()}
        torch.save({"step": step, "rank": rank, "problem": seen.problem, "losses": losses, "batch": seen.batch}, path)
        ids = seen.batch.keys.request_id_R.tolist()
        more = f", ... ({len(ids)} in all)" if len(ids) > SHOWN else ""
        shown = ", ".join(map(str, ids[:SHOWN])) + more
        return f"step {step}, rank {rank}: {seen.problem} is not finite; the batch, requests {shown}, is in {path}"


def elsewhere(step: int) -> str:
    """What a rank says of a gradient that another one has seen."""
    return f"step {step}: a gradient is not finite on another rank"


def behind(device: torch.device) -> int:
    """Steps that the host has given a device by the time it reads what has become of one."""
    return 0 if device.type == "cpu" else 1


class Flags:
    """Flags on their way to the host."""

    def __init__(self, flags: Tensor) -> None:
        self._flags, self._event = flags, None
        if flags.device.type == "cuda":
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[bool]:
        """Waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        return [bool(flag) for flag in self._flags.tolist()]
