"""Records SIGTERM and Ctrl-C until training reaches a point where it can stop.

Standard library only: the command line installs the handlers before it imports torch, which takes seconds.
"""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Whether a signal has asked this process to stop. Truthy after the signal."""

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the last signal, such as SIGTERM."""

    def __bool__(self) -> bool:
        return self.signal is not None

    def listen(self, *numbers: signal.Signals) -> None:
        """Replaces the handlers of these signals. Must be called from the main thread."""
        for number in numbers:
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            # A second Ctrl-C has the default action. SIGTERM may arrive twice: from a scheduler that signals every
            # process, and from torchrun, which forwards it.
            signal.signal(number, signal.SIG_DFL)
        self.signal = signal.Signals(number).name
