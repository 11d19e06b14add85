"""The working directory of a build, which several processes may share: units of work that are done once.

A unit makes a folder, which a rename publishes when it is complete. A process takes a unit by a lock, which the system
releases when the process ends, so that another process takes over what it left.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5
"""Pause between checks for units that other processes work on."""

Unit = Callable[[Path], None]
"""Fills a folder."""


class Area:
    """The directory.

    Args:
        path: exists.
        progress: is told of every unit that this process has done.
    """

    def __init__(self, path: Path, progress: Callable[[str], None]) -> None:
        self.path = path
        self._progress = progress

    def folder(self, name: str) -> Path:
        """The folder of a unit."""
        return self.path / name

    def do(self, phase: str, units: Mapping[str, Unit]) -> None:
        """Returns when all units are done, by this process or by others. A phase that was done once is done."""
        mark = self.path / f"{phase}.done"
        if mark.exists():
            return
        left = list(units)
        # Processes begin at different places, so that they seldom try the same lock.
        start = random.Random(os.getpid()).randrange(len(left)) if left else 0
        left = left[start:] + left[:start]
        while left:
            left = [name for name in left if not self._done(name, units[name], phase, len(units))]
            if left and mark.exists():
                return
            if left:
                time.sleep(POLL_S)
        mark.touch()

    def _done(self, name: str, unit: Unit, phase: str, of: int) -> bool:
        """Does a unit if nobody else has done it or is doing it; whether it is done."""
        target = self.folder(name)
        if target.exists():
            return True
        with locked(self.path / f"{name}.lock") as mine:
            if not mine:
                return False
            if not target.exists():
                unfinished = self.path / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                unit(unfinished)
                os.rename(unfinished, target)
                self._progress(f"{phase}: {name}, of {of}")
        return True


@contextmanager
def locked(file: Path, *, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> Iterator[bool]:
    """Tries to lock a file and yields whether it succeeded; the system releases the lock when the process ends."""
    with file.open("a") as handle:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True
