"""What the main thread of a rank is doing, as named phases.

Training enters a phase around every part of its work: `with phases("forward"): ...`. The window log reads how long each
phase took. The thread of the watchdog reads which phase the rank is in, and since when.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WAITING = "waiting for ranks"
"""The phase in which this package waits for a collective. Collectives of TorchRec belong to the phase that calls it."""


@dataclass(frozen=True, kw_only=True)
class CurrentPhase:
    """How far a rank has come. Ranks enter the same phases in the same order."""

    step: int | None
    """Steps that the rank has made; None while it starts."""
    entered: int
    """Phases that it has entered since then."""
    names: tuple[str, ...]
    """The phases that it is in, outermost first."""
    since: float
    """When it last entered or left one, in `time.monotonic` seconds."""

    @property
    def waits(self) -> bool:
        """Whether the rank waits for other ranks, as far as this package knows."""
        return bool(self.names) and self.names[-1] == WAITING

    def __str__(self) -> str:
        return ": ".join(self.names) or "between two phases"


class Phases:
    """The phases of one rank. The thread that trains enters them; any thread may read `current`.

    Args:
        clock: seconds that `take_window` reports. A benchmark on a shared machine takes CPU time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._now = clock
        self.current = CurrentPhase(step=None, entered=0, names=(), since=time.monotonic())
        self._seconds: dict[str, float] = {}
        self._clock = self._window_start = clock()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The block is this phase. A phase within it interrupts it: its time counts for the inner one only."""
        outer = self.current.names
        self._change((*outer, name), entered=1)
        try:
            yield
        finally:
            self._change(outer)

    def switch(self, name: str) -> None:
        """Replaces the innermost phase, for the rest of its block. Outside of all blocks nothing changes."""
        if self.current.names:
            self._change((*self.current.names[:-1], name), entered=1)

    def end_step(self, step: int) -> None:
        """Records that the rank has made this many steps."""
        self._change(self.current.names, step=step)

    def take_window(self, steps: int) -> tuple[dict[str, float], float]:
        """Ends a window of steps and begins the next.

        Host time: on CUDA, the time to enqueue the work.

        Returns:
            mean milliseconds per step of each phase as `ms_NAME`, with `ms_other` for the time in no phase; and the
            seconds of the window.
        """
        self._account()
        elapsed = self._clock - self._window_start
        seconds, self._seconds, self._window_start = self._seconds, {}, self._clock
        seconds["other"] = elapsed - sum(seconds.values())
        milliseconds = {
            f"ms_{name.replace(' ', '_')}": 1_000 * value / max(steps, 1) for name, value in seconds.items()
        }
        return milliseconds, elapsed

    def _change(self, names: tuple[str, ...], *, entered: int = 0, step: int | None = None) -> None:
        self._account()
        before = self.current
        # One assignment, so that another thread reads all of it or nothing.
        self.current = CurrentPhase(
            step=before.step if step is None else step,
            entered=before.entered + entered if step is None else 0,
            names=names,
            since=time.monotonic(),
        )

    def _account(self) -> None:
        """Adds the time since the last change to the innermost phase."""
        now = self._now()
        if self.current.names:
            name = self.current.names[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._clock
        self._clock = now
