"""CPU time and memory of commands together with all of their descendants, also those that outlive their parents."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
PAUSE_S = 0.2
"""Between two samples."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What some processes and their descendants took."""

    wall_s: float
    """Until the last of the commands ended; a JVM may end after it."""
    cpu_s: float
    peak_mib: float
    """The largest sampled sum of the proportional set sizes (PSS): a page that several processes share counts once."""


def run(commands: list[list[str]], env: Mapping[str, str] | None = None) -> Usage:
    """Runs commands at the same time, and waits until no descendant of them is left.

    Their output goes to standard error. Raises CalledProcessError if a command fails.

    The CPU time is the kernel's account of the descendants that have ended. Orphans become children of this process, so
    that they are in it. Missing are children of processes that ignore SIGCHLD, as the daemon of PySpark's workers does:
    for them the last sample is added, so that at most PAUSE_S at the end of each is not counted.

    Args:
        env: variables of the environment, besides those of this process.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    before, begin = _ended_cpu_s(), time.perf_counter()
    running = [subprocess.Popen(command, stdout=sys.stderr, env={**os.environ, **(env or {})}) for command in commands]
    samples = _Samples()
    samples.start()
    codes = [process.wait() for process in running]
    wall = time.perf_counter() - begin
    while True:
        try:
            samples.disowned_s.pop(os.wait()[0], None)
        except ChildProcessError:
            break
    samples.stop()
    for command, code in zip(commands, codes, strict=True):
        if code:
            raise subprocess.CalledProcessError(code, command)
    cpu_s = _ended_cpu_s() - before + sum(samples.disowned_s.values())
    return Usage(wall_s=wall, cpu_s=cpu_s, peak_mib=samples.peak_kib / 1_024)


class _Samples(threading.Thread):
    """Samples all descendants of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_kib = 0
        self.disowned_s: dict[int, float] = {}
        """CPU seconds, by number, of processes whose parents ignore that they end."""
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(PAUSE_S):
            found = descendants(os.getpid())
            self.peak_kib = max(self.peak_kib, sum(map(_pss_kib, found)))
            for process, parent in found.items():
                used = _cpu_s(process)
                if used is not None and _ignores_children(parent):
                    self.disowned_s[process] = used

    def stop(self) -> None:
        self._ended.set()
        self.join()


def descendants(ancestor: int) -> dict[int, int]:
    """The processes below a process, without itself: their numbers, and those of their parents."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = {}, [ancestor]
    while left:
        parent = left.pop()
        below = children.get(parent, [])
        found.update(dict.fromkeys(below, parent))
        left += below
    return found


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None for a process that has ended."""
    try:
        # The name of the program before them, in brackets, may have spaces.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _cpu_s(process: int) -> float | None:
    """CPU seconds of a process and of its children that it has waited for; None if it has ended."""
    fields = _stat(process)
    return None if fields is None else sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _ignores_children(process: int) -> bool:
    """Whether a process ignores SIGCHLD. The kernel then adds the times of its children to no account."""
    mask = _field(f"/proc/{process}/status", "SigIgn:")
    return bool(int(mask or "0", 16) >> (signal.SIGCHLD - 1) & 1)


def _pss_kib(process: int) -> int:
    """Proportional set size; 0 for a process that has ended."""
    return int(_field(f"/proc/{process}/smaps_rollup", "Pss:") or 0)


def _field(file: str, name: str) -> str | None:
    """The word behind a name in a file of lines; None for a process that has ended."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith(name)), None)


def _ended_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
