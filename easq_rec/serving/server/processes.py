"""Several processes that accept calls on one socket. One that ends is started again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

BAD = 2
"""Exit code of a process that cannot serve what it was told to."""
RESTART_S = 1.0
"""Seconds between the end of a process and its next start."""


class Processes:
    """Runs a function in several processes until a signal ends this one.

    Args:
        target: runs in each process, and ends after SIGTERM. It can be pickled.
        count: number of processes.
        drain_s: seconds that processes have to end after SIGTERM; then they are killed.
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
        process = self._context.Process(target=_process, args=(self._target, os.getpid()))
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


def _process(target: Callable[[], None], parent: int) -> None:
    # Ctrl-C goes to all processes of a terminal; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    target()


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended, which then starts and ends no more of them."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
