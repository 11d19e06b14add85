"""Events of a rank, written to RUN_DIR/logs/rank_K.jsonl for operators and programs.

`event` may be called anywhere in training. It writes to the log that the innermost `recorded` block has opened, and
does nothing outside of one.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from easq_rec.run_directory.event_file import Event, event_line
from easq_rec.run_directory.paths import RunDirectory


class RankInfo(Protocol):
    """The rank that writes a log, such as `easq_rec.training.process.Runtime`."""

    @property
    def rank(self) -> int: ...

    @property
    def local_rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


LOGGER = logging.getLogger("easq_rec.events")
LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False
LOGGER.setLevel(logging.INFO)


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Records that something happened.

    Args:
        fields: values of plain types.
    """
    LOGGER.log(level, name, extra={"fields": fields})


def restarts() -> int:
    """How often torchrun has restarted the workers of this job; 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Recorder:
    """The open log. It calls `step` for the step of an event that has no field `step`."""

    def __init__(self) -> None:
        self.step: Callable[[], int | None] = lambda: None


@contextlib.contextmanager
def recorded(run_dir: Path, runtime: RankInfo) -> Iterator[Recorder]:
    """Appends the events of the block to this rank's log. An exception that leaves the block is an event, too."""
    recorder = Recorder()
    handler = _LineFile(RunDirectory(run_dir).log(runtime.rank))
    handler.setFormatter(_EventFormatter(runtime, recorder))
    LOGGER.addHandler(handler)
    try:
        yield recorder
    except BaseException as error:
        event(
            "exception",
            level=logging.ERROR,
            type=type(error).__name__,
            message=str(error),
            traceback=traceback.format_exc(),
        )
        raise
    finally:
        LOGGER.removeHandler(handler)
        handler.close()


class _LineFile(logging.Handler):
    """Appends whole lines to a file. If the disk is full, the run continues; one message reports that the log stops."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A killed process may have left half a line. The next line must not be appended to it.
        self._torn = path.exists() and not _ends_with_a_line(path)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        data = self.format(record).encode()
        if self._torn:
            data = b"\n" + data
        try:
            # One unbuffered write: nothing that a full disk refuses is written again when the file is closed, and a
            # signal handler may interrupt this method to write another line.
            written = os.write(self._handle, data)
            problem = None if written == len(data) else "the disk is full"
            self._torn = problem is not None
        except OSError as error:
            problem = error.strerror or str(error)
        if problem is not None and not self._complained:
            self._complained = True
            print(f"easq-rec: {self._path} cannot be written: {problem}. The run goes on", file=sys.stderr, flush=True)

    def close(self) -> None:
        super().close()
        os.close(self._handle)


class _EventFormatter(logging.Formatter):
    """A log record as a line of the event file."""

    def __init__(self, runtime: RankInfo, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._rank = runtime.rank
        self._process = {
            "local_rank": runtime.local_rank,
            "world_size": runtime.world_size,
            "restarts": restarts(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        return event_line(
            Event(
                time=datetime.datetime.fromtimestamp(record.created, datetime.UTC),
                name=record.getMessage(),
                rank=self._rank,
                level=record.levelname,
                fields={"step": self._recorder.step(), **fields, **self._process},
            )
        )


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) in (b"", b"\n")
