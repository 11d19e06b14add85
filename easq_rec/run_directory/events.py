"""RUN_DIR/logs/rank_K.jsonl: what happened to each rank of a run, one JSON object per line, for operators and machines.

`event` may be called from anywhere in training. It is written where `recorded` is around it, and goes nowhere else.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol


class RankInfo(Protocol):
    """The rank that writes a log. `easq_rec.training.process.Runtime` is one."""

    @property
    def rank(self) -> int: ...

    @property
    def local_rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


FOLDER = "logs"
LOGGER = logging.getLogger("easq_rec.events")
LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False
LOGGER.setLevel(logging.INFO)


def event(name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Records that something happened.

    Args:
        fields: of plain types; numbers that are not finite become null.
    """
    LOGGER.log(level, name, extra={"fields": fields})


def restarts() -> int:
    """How often torchrun has restarted the workers of this job; 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Recorder:
    """The log that is open. `step` is asked for the step of an event that names none."""

    def __init__(self) -> None:
        self.step: Callable[[], int | None] = lambda: None


@contextlib.contextmanager
def recorded(run_dir: Path, runtime: RankInfo) -> Iterator[Recorder]:
    """Events within it are appended to this rank's file; an exception that leaves it is one."""
    recorder = Recorder()
    handler = _LineFile(run_dir / FOLDER / f"rank_{runtime.rank}.jsonl")
    handler.setFormatter(_JsonLine(runtime, recorder))
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
    """Appends whole lines to a file. Where the disk is full the run goes on, and says once that its log does not."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A killed process may have left half a line, to which nothing must be appended.
        self._torn = path.exists() and not _ends_with_a_line(path)
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        data = (self.format(record) + "\n").encode()
        if self._torn:
            data = b"\n" + data
        try:
            # In one piece and past any buffer: what a full disk refuses must not come again when the file is closed,
            # and a signal handler may interrupt this to write a line of its own.
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


class _JsonLine(logging.Formatter):
    def __init__(self, runtime: RankInfo, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._always = {
            "rank": runtime.rank,
            "local_rank": runtime.local_rank,
            "world_size": runtime.world_size,
            "restarts": restarts(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = getattr(record, "fields", {})
        head = {"time": time, "level": record.levelname, "event": record.getMessage(), "step": self._recorder.step()}
        return json.dumps(_plain({**head, **fields, **self._always}), default=str)


def _plain(value: Any) -> Any:
    """With six digits of each number; JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) in (b"", b"\n")
