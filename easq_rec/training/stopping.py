"""All ranks stop after the same step, whichever of them was asked to."""

from __future__ import annotations

from easq_rec.training.process import Runtime
from easq_rec.training.signals import StopRequest


class StopAgreement:
    """Whether the ranks stop. True on all ranks after the same step.

    Args:
        request: whether this process was asked to stop.
    """

    def __init__(self, request: StopRequest, runtime: Runtime) -> None:
        self.request = request
        self._runtime = runtime
        self._agreed = False

    def __bool__(self) -> bool:
        return self._agreed or (self._runtime.world_size == 1 and bool(self.request))

    def note(self, requested: bool) -> None:
        """Takes the answer of an exchange between the ranks: whether any of them was asked to stop."""
        self._agreed |= requested

    def agree(self) -> bool:
        """Asks all ranks now, and waits for them."""
        self._agreed = self._runtime.any_rank(bool(self.request))
        return self._agreed
