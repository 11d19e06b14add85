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
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from easq_rec.disk_failures import LostWrites
from easq_rec.run_directory.append_file import AppendFile
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

    @property
    def lost(self) -> LostWrites: ...


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
    handler = _LineFile(RunDirectory(run_dir).log(runtime.rank), runtime.lost)
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
    """Appends whole lines to a file. A line that the disk refuses is lost, and the run goes on."""

    def __init__(self, path: Path, lost: LostWrites) -> None:
        super().__init__()
        self._file = AppendFile(path)
        self._lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        # Nothing that a full disk refuses is written again when the file is closed, and a signal handler may interrupt
        # this method to write another line.
        with self._lost.tolerated("events", self._file.path):
            self._file.append(self.format(record).encode())

    def close(self) -> None:
        super().close()
        self._file.close()


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
