"""SIGTERM and Ctrl-C: remembered until training comes to where it can be left.

Standard library only: the command line listens before torch is imported, which takes seconds.
"""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop, by a signal. Truthy once it was."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the last, such as SIGTERM."""

    def __bool__(self) -> bool:
        return self.signal is not None

    def listen(self, *numbers: signal.Signals) -> None:
        """Takes these signals from now on, in place of what they did; from the main thread alone."""
        for number in numbers:
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            # A second Ctrl-C means it: the default action takes over. SIGTERM may come twice, from a scheduler that
            # tells every process and from torchrun, which passes on what it was told.
            signal.signal(number, signal.SIG_DFL)
        self.signal = signal.Signals(number).name
