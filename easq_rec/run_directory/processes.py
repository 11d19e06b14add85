"""Who a process is, so that another process can tell whether it is still alive.

A process id alone is not enough: it is given again after its process has ended, after a restart of the host, and in
every container. Standard library only.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process of some host."""

    host: str
    pid: int
    boot: str | None
    """Identifies one start of the host's kernel; None on systems without /proc."""
    namespace: str | None
    """The namespace in which `pid` counts; containers have one each. None on systems without /proc."""
    started: int | None
    """Start of the process in clock ticks since the host's; None on systems without /proc."""

    @classmethod
    def own(cls) -> Self:
        """The calling process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            boot=_boot(),
            namespace=_namespace(),
            started=start_ticks(os.getpid()),
        )

    def alive(self) -> bool | None:
        """Whether the process is alive; None if it cannot be seen from here."""
        if self.boot is not None and self.namespace is not None:
            if (self.boot, self.namespace) != (_boot(), _namespace()):
                return None
            return start_ticks(self.pid) == self.started
        if self.host != socket.gethostname() or Path("/proc/self").exists():
            return None
        return accepts_signals(self.pid)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the host's start; None if it has ended, or on systems without
    /proc."""
    try:
        # The name of the program, in parentheses, may contain anything. After it come state and parent; the start is
        # field 22 of the line.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # Z, X: it has ended, and its parent has not collected its exit code yet.
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def accepts_signals(pid: int) -> bool:
    """Whether a process of this number exists, on systems without /proc."""
    if pid <= 0 or Path("/proc").is_dir():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
