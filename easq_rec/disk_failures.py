"""Writes that a failing disk refused: a run reports them and goes on.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Error numbers of a disk that a user can mend."""
CODES = NO_ROOM | {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
"""Error numbers of a disk that is full, over its quota, read-only or broken, of a file that is too large for its file
system, and of a network file system that is gone. Other errors, such as a missing permission, are not tolerated."""

EXIT_CODE = 74
"""EX_IOERR: the run ended, but its last checkpoint could not be written."""

Kind = Literal[
    "the config",
    "counts",
    "the plan",
    "checkpoints",
    "copies",
    "metrics",
    "events",
    "TensorBoard",
    "bad rows",
    "batches",
    "output",
]

SINGULAR: Mapping[Kind, str] = {
    "the config": "the configuration",
    "counts": "the copy of the published counts",
    "the plan": "the placement of the tables",
    "checkpoints": "a checkpoint",
    "copies": "a copy of a checkpoint",
    "metrics": "a line of metrics",
    "events": "a line of the log of events",
    "TensorBoard": "a point of the TensorBoard curves",
    "bad rows": "a file of bad rows",
    "batches": "a batch that is not finite",
    "output": "a line of output",
}
"""What one refused write of each kind is."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The refused writes of one kind."""

    kind: Kind
    reason: str
    """Of the first one."""
    count: int


PROBE = 2**20
"""Bytes that `why_full` writes."""


def is_disk_failure(error: BaseException) -> bool:
    """Whether an error says that a disk failed."""
    return isinstance(error, OSError) and error.errno in CODES


def reason_of(error: OSError) -> str:
    """What the system says, with the name of the error: `No space left on device (ENOSPC)`."""
    if error.errno is None:
        return str(error)
    name = errno.errorcode.get(error.errno, f"errno {error.errno}")
    return f"{os.strerror(error.errno)} ({name})"


def why_full(folder: Path) -> str | None:
    """Why a file of a megabyte cannot be written to a folder; None if it can.

    For libraries whose errors do not say what the system has said.
    """
    probe = folder / f".probe-{os.getpid()}-{threading.get_native_id()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason_of(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


class LostWrites:
    """Counts refused writes by kind. All methods may be called from any thread.

    Args:
        speaks: print the first of each kind to standard error; False on all ranks except rank 0.
    """

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._lock = threading.Lock()
        self._lost: dict[Kind, Lost] = {}

    def add(self, kind: Kind, place: Path | str, reason: str) -> None:
        """Counts a refused write, and prints the first one of its kind.

        Args:
            place: the file that lacks it.
        """
        with self._lock:
            before = self._lost.get(kind)
            found = Lost(kind=kind, reason=reason, count=1) if before is None else before
            if before is not None:
                found = Lost(kind=kind, reason=before.reason, count=before.count + 1)
            self._lost[kind] = found
        if before is None and self._speaks:
            said = (
                f"easq-rec: {SINGULAR[kind]} was not written to {place}: {reason}. The run goes on; if there are more, "
                "they are counted, and the end of the run says how many"
            )
            self.say(said, error=True)

    @contextlib.contextmanager
    def tolerated(self, kind: Kind, place: Path | str) -> Iterator[None]:
        """Within the block a failure of the disk ends the block, and is counted."""
        try:
            yield
        except OSError as error:
            if not is_disk_failure(error):
                raise
            self.add(kind, place, reason_of(error))

    def say(self, text: str, *, error: bool = False) -> None:
        """Prints a line to standard output or standard error, which may be a file on the disk that fails."""
        try:
            _print(text, sys.stderr if error else sys.stdout)
        except OSError as problem:
            if not is_disk_failure(problem):
                raise
            if not error:
                self.add("output", "the standard output", reason_of(problem))

    def all(self) -> list[Lost]:
        """Everything that was lost so far, by kind."""
        with self._lock:
            return list(self._lost.values())


def _print(text: str, stream: TextIO) -> None:
    """Prints a line at once. What the disk refuses is not kept: it would be refused again when the process ends."""
    try:
        handle = stream.fileno()
    except (OSError, ValueError):
        # A stream that replaces the standard one may have no file.
        print(text, file=stream, flush=True)
        return
    stream.flush()
    rest = f"{text}\n".encode(stream.encoding or "utf-8", errors="replace")
    while rest:
        rest = rest[os.write(handle, rest) :]


def merged(ranks: Sequence[Sequence[Lost]]) -> list[Lost]:
    """The losses of all ranks together, by kind; the reason is that of the first rank which has one."""
    found: dict[Kind, Lost] = {}
    for one in (lost for rank in ranks for lost in rank):
        before = found.get(one.kind)
        count = one.count + (before.count if before is not None else 0)
        found[one.kind] = Lost(kind=one.kind, reason=(before or one).reason, count=count)
    return list(found.values())


def summary(lost: Sequence[Lost]) -> str:
    """`not written: metrics 12 times, events twice: No space left on device (ENOSPC)`."""
    reasons = list(dict.fromkeys(one.reason for one in lost))
    parts = [
        f"{', '.join(f'{one.kind} ({one.count:,}x)' for one in lost if one.reason == reason)}: {reason}"
        for reason in reasons
    ]
    return f"not written: {'; '.join(parts)}"
