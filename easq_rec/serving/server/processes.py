"""Several processes that accept calls on one socket. One that ends is started again."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any

BAD = 2
"""Exit code of a process that cannot serve what it was told to."""
RESTART_S = 1.0
"""Seconds between the end of a process and its next start."""


class Processes:
    """Runs a function in several processes until a signal ends this one.

    Args:
        target: runs in each process, and ends after SIGTERM. It can be pickled.
        count: number of processes.
        drain_s: seconds that processes have to end after SIGTERM; then they are killed. If this process is killed,
            they send SIGTERM to themselves, with the same limit.
    """

    def __init__(self, target: Callable[[], None], count: int, *, drain_s: float) -> None:
        self._target = target
        self._drain_s = drain_s
        self._context = multiprocessing.get_context("spawn")
        self._running: list[SpawnProcess | None] = [None] * count
        self._asked = threading.Event()
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)

    def run(self, *, served: Callable[[], bool]) -> int:
        """Returns the exit code: 0 after a signal.

        Args:
            served: whether any process has served. If none has, and one ends with `BAD`, all would.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        code = 0
        while not self._asked.is_set():
            for place, process in enumerate(self._running):
                if process is None:
                    self._running[place] = self._start()
            alive = [process for process in self._running if process is not None]
            wait([self._woken, *(process.sentinel for process in alive)])
            for place, process in enumerate(self._running):
                if process is not None and not process.is_alive():
                    self._running[place] = None
                    if process.exitcode == BAD and not served():
                        code = BAD
                        self._asked.set()
            if None in self._running:
                self._asked.wait(RESTART_S)
        self._end()
        return code

    def _start(self) -> SpawnProcess:
        process = self._context.Process(target=_process, args=(_Deferred(self._target), self._drain_s))
        process.start()
        return process

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        self._wake.send(number)

    def _end(self) -> None:
        alive = [process for process in self._running if process is not None]
        for process in alive:
            process.terminate()
        end = time.monotonic() + self._drain_s
        for process in alive:
            process.join(max(end - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()


@dataclass(frozen=True)
class _Deferred:
    """A function that a new process unpickles when it calls it, and not before: that imports torch, for seconds."""

    target: Callable[[], None]

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (_call_pickled, bytes(ForkingPickler.dumps(self.target)))


def _call_pickled(target: bytes) -> None:
    ForkingPickler.loads(target)()


def _process(target: Callable[[], None], drain_s: float) -> None:
    # Ctrl-C goes to all processes of a terminal; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(drain_s,), daemon=True).start()
    target()


def _end_with_parent(drain_s: float) -> None:
    """Ends this process when its parent has ended, which then starts and ends no more of them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end = time.monotonic() + drain_s
    while time.monotonic() < end:
        # Again and again, since a process may not hear a signal while it sets up what it does after one.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
