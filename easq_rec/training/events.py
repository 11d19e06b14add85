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
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easq_rec.training.runtime import Runtime

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


@contextlib.contextmanager
def recorded(run_dir: Path, runtime: Runtime) -> Iterator[None]:
    """Events within it are appended to this rank's file; an exception that leaves it is one."""
    path = run_dir / FOLDER / f"rank_{runtime.rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(path)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLine(runtime))
    LOGGER.addHandler(handler)
    try:
        yield
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


class _JsonLine(logging.Formatter):
    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
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
        head = {"time": time, "level": record.levelname, "event": record.getMessage()}
        return json.dumps(_plain({**head, **fields, **self._always}), default=str)


def _plain(value: Any) -> Any:
    """With six digits of each number; JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _end_last_line(path: Path) -> None:
    """A killed process may have left half a line, to which nothing must be appended."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
