"""Keeps a loss or gradient that is NaN or infinite out of the model.

The ranks tell each other whether their loss is finite while they differentiate it. They know the answer before the
tables get a gradient, since the optimizer of the tables runs within the backward pass: if the loss of one rank is not
finite, the step changes nothing on any rank. Gradients are checked where they enter the tables, and once more before
the step of AdamW. A gradient of the tables that is not finite becomes 0, and AdamW skips its step.

All of this is decided on the device. A host that read the flags from a GPU at once would wait for all work that is
queued there, so it reads the flags of a step after it has queued the next one.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from easq_rec.data.batch import RequestBatch
from easq_rec.data.batch_file import write_batch
from easq_rec.errors import UserError
from easq_rec.losses.ranks import Pending
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import not_finite_name
from easq_rec.training.process import Runtime

SHOWN = 5
"""Request ids in a message."""
FLAGS = 3
"""Flags of a step that the ranks exchange: its loss is not finite, the run stops, a stop was requested."""


class NotFinite(UserError):
    """A loss or a gradient was NaN or infinite, and the run is configured to stop there."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The flags of one step. `skipped`, `stopped` and `stop_requested` are the same on all ranks."""

    step: int
    skipped: bool
    """The loss of a rank was not finite: the step changed nothing."""
    stopped: bool
    """A rank had a gradient that was not finite in the step before, and the run stops for that: this step changed
    nothing."""
    stop_requested: bool
    """A rank was asked to stop before this step."""
    problem: str | None
    """What was not finite on this rank."""
    batch: RequestBatch
    losses: dict[str, Tensor]


class FiniteCheck:
    """Checks the loss and the gradients of every step of one rank.

    Args:
        directory: takes the batches of steps in which something was not finite.
        stops: whether the run stops at such a step; otherwise it skips the step.
    """

    def __init__(self, runtime: Runtime, directory: Path, *, stops: bool) -> None:
        self._runtime = runtime
        self._directory = directory
        self._stops = stops
        self._delay = read_delay(runtime.device)
        self._no = torch.zeros((), dtype=torch.bool, device=runtime.device)
        self._sums: Pending = lambda: self._no.double().expand(FLAGS)
        self._any_rank: Pending = lambda: self._no.expand(FLAGS)
        self._loss = self._embeddings = self._network = self._no
        """Whether this rank's loss or gradients of the present step are not finite."""
        self._unread: deque[tuple[int, RequestBatch, dict[str, Tensor], HostFlags]] = deque()
        self.failure: str | None = None
        """What was not finite on this rank, if the run stops for it."""
        self.skipped_steps = 0
        """Steps so far in which a loss of any rank, or a gradient of this one, was not finite."""

    def check_loss(self, loss: Tensor, value_X: Tensor, *, stop_requested: bool) -> None:
        """Checks the loss of a step before it is differentiated, and starts the exchange of the ranks' flags.

        Args:
            value_X: FP64; the same exchange adds them up over the ranks, for `sums`.
            stop_requested: whether this process was asked to stop. The same exchange passes it on to the other ranks.
        """
        stopped = (self._embeddings | self._network) if self._stops else self._no
        self._loss = ~loss.detach().isfinite()
        self._embeddings = self._network = self._no
        flags = torch.stack([self._loss, stopped, torch.full_like(self._no, stop_requested)])
        self._sums = sums = self._runtime.start_sum(torch.cat([flags.double(), value_X]))
        self._any_rank = functools.cache(lambda: sums()[:FLAGS] > 0)

    def sums(self) -> Tensor:
        """The sums over the ranks of the values that `check_loss` got, (X,). Waits for the exchange."""
        return self._sums()[FLAGS:]

    def gradient_for_tables(self, gradient: Tensor) -> Tensor:
        """The gradient, or 0 if it is not finite or the step changes nothing."""
        # One number is enough, since NaN and infinity survive a sum.
        bad, void = ~gradient.sum().isfinite(), self._void()
        self._embeddings = self._embeddings | (bad & ~void)
        if self._delay:
            return gradient.masked_fill(bad | void, 0)
        return torch.zeros_like(gradient) if bad or void else gradient

    def skip_network(self, gradient_norm: Tensor | None) -> Tensor:
        """1 if AdamW must change nothing, else 0: the norm is not finite, or the step changes nothing.

        Args:
            gradient_norm: of all gradients of the dense network, the same on every rank; None: there are none.
        """
        void = self._void()
        if gradient_norm is not None:
            self._network = ~gradient_norm.isfinite() & ~void
        return (self._network | void).float()

    def _void(self) -> Tensor:
        """Whether the step changes nothing, according to all ranks."""
        skipped, stopped, _ = self._any_rank()
        return skipped | stopped

    def end_step(self, step: int, batch: RequestBatch, losses: dict[str, Tensor]) -> None:
        """Starts the copy of the step's flags to the host."""
        flags = torch.stack([*self._any_rank(), self._loss, self._embeddings, self._network])
        self._unread.append((step, batch, losses, HostFlags(flags)))

    def outcomes(self, *, wait: bool = False) -> Iterator[StepOutcome]:
        """The steps whose flags the host can read, each once and in order.

        Args:
            wait: read all steps so far, and wait for a GPU where that is needed.
        """
        while len(self._unread) > (0 if wait else self._delay):
            step, batch, losses, flags = self._unread.popleft()
            skipped, stopped, stop_requested, loss, embeddings, network = flags.read()
            problem = None
            if loss:
                names = [name for name, value in losses.items() if not math.isfinite(float(value))]
                problem = f"the loss ({', '.join(names) or 'their weighted sum'})"
            elif embeddings or network:
                problem = f"the gradient of {'embeddings' if embeddings else 'the network'}"
            yield StepOutcome(
                step=step,
                skipped=skipped,
                stopped=stopped,
                stop_requested=stop_requested,
                problem=problem,
                batch=batch,
                losses=losses,
            )

    def report(self, outcome: StepOutcome) -> str | None:
        """Reports what was not finite in a step, and writes its batch.

        A gradient may be bad on this rank only. It is then kept as `failure`, and the other ranks learn of it in the
        next step, which changes nothing: all ranks stop after the same step.

        Returns:
            why the run stops after this step; None: it goes on.
        """
        if outcome.stopped:
            return self.failure or failure_elsewhere(outcome.step - 1)
        if outcome.problem is None and not outcome.skipped:
            return None
        self.skipped_steps += 1
        problem = f"step {outcome.step}: the loss is not finite on another rank"
        if outcome.problem is not None:
            problem = self._write(outcome)
            self._runtime.lost.say(f"easq-rec: {problem}", error=True)
            event("not_finite", level=logging.WARNING, step=outcome.step, problem=problem)
        if self._stops:
            self.failure = problem
        return self.failure if outcome.skipped else None

    def _write(self, outcome: StepOutcome) -> str:
        """Writes this rank's batch of a step; returns the problem with the path of the file."""
        step, rank = outcome.step, self._runtime.rank
        path = self._directory / not_finite_name(step, rank)
        losses = {name: float(value) for name, value in outcome.losses.items()}
        where = "could not be written"
        with self._runtime.lost.tolerated("batches", path):
            write_batch(path, outcome.batch, {"step": step, "rank": rank, "problem": outcome.problem, "losses": losses})
            where = f"is in {path}"
        ids = outcome.batch.keys.request_id_R.tolist()
        more = f", ... ({len(ids)} in all)" if len(ids) > SHOWN else ""
        shown = ", ".join(map(str, ids[:SHOWN])) + more
        return f"step {step}, rank {rank}: {outcome.problem} is not finite; the batch, requests {shown}, {where}"


def failure_elsewhere(step: int) -> str:
    """Why a rank stops when the gradient of another rank was not finite."""
    return f"step {step}: a gradient is not finite on another rank"


def read_delay(device: torch.device) -> int:
    """Steps that the host has queued after one before it reads the flags of that one."""
    return 0 if device.type == "cpu" else 1


class HostFlags:
    """A copy of flags to the host, which may still be running."""

    def __init__(self, flags: Tensor) -> None:
        self._flags, self._event = flags, None
        if flags.device.type == "cuda":
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[bool]:
        """Waits for the copy."""
        if self._event is not None:
            self._event.synchronize()
        return [bool(flag) for flag in self._flags.tolist()]
