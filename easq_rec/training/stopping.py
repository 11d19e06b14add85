"""When training stops: all ranks stop after the same step, whichever of them was asked to, or found a NaN."""

from __future__ import annotations

import logging
import signal

from easq_rec.run_directory.events import event
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.health.finite_check import FiniteCheck, NotFinite, failure_elsewhere
from easq_rec.training.process import Runtime
from easq_rec.training.signals import StopRequest


class StopAgreement:
    """Whether the ranks stop. True on all ranks after the same step.

    Args:
        request: whether this process was asked to stop.
        checkpoints: are complete before a failure ends the run.
    """

    def __init__(
        self, request: StopRequest, runtime: Runtime, finite_check: FiniteCheck, checkpoints: Checkpointer
    ) -> None:
        self._request = request
        self._runtime = runtime
        self._finite_check = finite_check
        self._checkpoints = checkpoints
        self._agreed = False

    def __bool__(self) -> bool:
        return self._agreed or (self._runtime.world_size == 1 and bool(self._request))

    def listen(self) -> None:
        """SIGTERM and Ctrl-C are requests to stop from now on."""
        self._request.listen(signal.SIGTERM, signal.SIGINT)

    def agree(self) -> bool:
        """Asks all ranks now, and waits for them."""
        self._agreed = self._runtime.any_rank(bool(self._request))
        return self._agreed

    def read_outcomes(self, *, wait: bool = False) -> None:
        """Reads the flags of past steps, which say whether a rank was asked to stop or found something not finite.

        Args:
            wait: read the flags of all steps so far, and wait for a GPU where that is needed.

        Raises:
            NotFinite: a loss or gradient is not finite, and the run is configured to stop. On all ranks after the same
                step.
        """
        for outcome in self._finite_check.outcomes(wait=wait):
            self._agreed |= outcome.stop_requested
            if (problem := self._finite_check.report(outcome)) is not None:
                self._fail(problem)

    def end(self, step: int) -> None:
        """Reads the outcome of the last step, which no later step brings to the other ranks. Raises as before."""
        self.read_outcomes(wait=True)
        failure = self._finite_check.failure
        if self._runtime.any_rank(failure is not None):
            self._fail(failure or failure_elsewhere(step))
        if self._request:
            event("signal", level=logging.WARNING, signal=self._request.signal, step=step)

    def _fail(self, problem: str) -> None:
        self._checkpoints.wait()
        self._runtime.barrier()
        raise NotFinite(f"{problem}. The run stops; with --trainer.on-not-finite skip it goes on from its checkpoint")
