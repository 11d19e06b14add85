"""A run directory as an operator sees it: what it was asked to do, how far it came, and whether it is alive."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from easq_rec.run_directory.checkpoint_files import published
from easq_rec.run_directory.events import FOLDER as LOGS
from easq_rec.run_directory.run_files import FINAL, HOLDOUT, METRICS, Record, read_records

PASSED_OVER = {"checkpoints", "tensorboard", LOGS, "quarantine", "not_finite"}
"""Folders of a run in which no other run lies."""
WINDOW, TRAINED = '"event": "window"', '"split": "train"'
"""In the text of a line, of a log and of metrics.jsonl, that tells of a window of steps."""
SILENT_S = 900.0
"""Without a sign of life for so many seconds, a run on another host is taken for lost."""

State = Literal["running", "finished", "stopped", "failed", "killed", "silent", "unknown"]
"""- finished: trained to its end and evaluated
- stopped: left with a checkpoint, after a signal or at `trainer.stop_at_step`; it can be resumed
- failed: an exception or a hanging rank ended it, which `runs show` prints
- running: the process of rank 0 is alive, or wrote within the last 15 minutes on another host
- killed: the process of rank 0 is gone, and said nothing
- silent: on another host, and without a sign for 15 minutes
- unknown: it has no logs, as runs from before they were written
"""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a rank's log."""

    time: datetime.datetime
    name: str
    rank: int
    level: str
    fields: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory."""

    directory: Path
    config: dict[str, Any]
    events: list[Event]
    """Of all ranks, in the order of time; of several windows of steps in a row the newest alone."""
    records: list[Record]
    """Of metrics.jsonl, likewise."""

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe", "?"))

    @property
    def starts(self) -> list[Event]:
        """Of rank 0: the first, and those of restarts."""
        return [event for event in self.events if event.name == "start" and event.rank == 0]

    @property
    def world_size(self) -> int | None:
        """Ranks of the latest start."""
        return self.starts[-1].fields.get("world_size") if self.starts else None

    @property
    def step(self) -> int:
        """The last that was logged or saved."""
        logged = [record.step for record in self.records]
        return max([*logged, *(checkpoint_step(path) for path in self.checkpoints)], default=0)

    @property
    def of(self) -> int | None:
        """Steps in all; None: not known yet."""
        found = [event.fields.get("of") for event in self.events if event.name == "window"]
        return found[-1] if found else None

    @property
    def checkpoints(self) -> list[Path]:
        return published(self.directory / "checkpoints")

    @property
    def held_out(self) -> Record | None:
        """The metrics of the end, else those of the last evaluation on the way."""
        found = [record for record in self.records if record.split in (HOLDOUT, FINAL)]
        return max(found, key=lambda record: (record.split == FINAL, record.step), default=None)

    @property
    def last_sign(self) -> float:
        """When something of it was last written, in seconds since 1970."""
        files = [*self.directory.glob("*"), *(self.directory / LOGS).glob("*")]
        return max(file.stat().st_mtime for file in files)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.directory.rglob("*") if file.is_file())

    @property
    def state(self) -> State:
        if not self.starts:
            return "unknown"
        start = self.starts[-1]
        since = self.events[max(index for index, event in enumerate(self.events) if event is start) :]
        # Of any rank, and even where this one is done: its launcher reports a failure, and so must who looks here.
        if any(event.name in ("exception", "hang") for event in since):
            return "failed"
        names = {event.name for event in since if event.rank == 0}
        if "finished" in names:
            return "finished"
        if "stopped" in names:
            return "stopped"
        if start.fields.get("host") != socket.gethostname():
            return "running" if time.time() - self.last_sign < SILENT_S else "silent"
        return "running" if _alive(int(start.fields.get("pid", 0)), start.time) else "killed"


def checkpoint_step(path: Path) -> int:
    """By its name."""
    return int(path.name.removeprefix("step_"))


def find_runs(roots: list[Path]) -> Iterator[Path]:
    """The run directories in and below some directories.

    Raises:
        ValueError: one of them is no directory.
    """
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root}: no such directory")
        for path, folders, files in os.walk(root):
            # Without config.json it is what is left of a run, which reading it will say.
            if METRICS in files or "checkpoints" in folders or ("config.json" in files and LOGS in folders):
                yield Path(path)
                folders[:] = [name for name in folders if name not in PASSED_OVER]
            folders.sort()


def read_run(directory: Path) -> Run:
    """
    Raises:
        ValueError: it is no run directory, or a file of it cannot be read, with its name.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
        config["recipe"], config["trainer"]["batch_size"]
    except FileNotFoundError:
        raise ValueError(f"{directory}: no config.json in it; name a directory that `easq-rec train` wrote") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the config.json of a run: {error!r}") from error
    metrics = directory / METRICS
    events = [event for file in sorted((directory / LOGS).glob("rank_*.jsonl")) for event in _events(file)]
    return Run(
        directory=directory,
        config=config,
        events=sorted(events, key=lambda event: event.time),
        records=list(read_records(metrics, partial(_tells, sign=TRAINED))) if metrics.exists() else [],
    )


def _events(file: Path) -> Iterator[Event]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if not _tells(line, following, sign=WINDOW):
            continue
        try:
            fields = json.loads(line)
            when = datetime.datetime.fromisoformat(fields.pop("time"))
            name, rank, level = str(fields.pop("event")), int(fields.pop("rank")), str(fields.pop("level"))
        except (ValueError, KeyError, TypeError, AttributeError):
            # Half a line, which a killed process has left.
            continue
        yield Event(time=when, name=name, rank=rank, level=level, fields=fields)


def _tells(line: str, following: str, *, sign: str) -> bool:
    """Nearly all lines of a long run are windows of steps, most of which need not be parsed to know how it stands."""
    return not (sign in line and sign in following)


def _alive(pid: int, started: datetime.datetime) -> bool:
    """Whether the process is the one that said so, and not another that was given its number later."""
    try:
        # When /proc has its entry is when it began, up to a second or two.
        began = Path(f"/proc/{pid}").stat().st_mtime
        # After the program's name, which may contain anything but ends at the last parenthesis.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return _signalled(pid)
    if state in "ZX":
        # It has ended, and its parent has not asked for it yet.
        return False
    return began <= started.timestamp() + 5


def _signalled(pid: int) -> bool:
    """Where there is no /proc."""
    if pid <= 0 or Path("/proc").is_dir():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
