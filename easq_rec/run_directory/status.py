"""The status of a run: its configuration, how far it has come, and whether it is alive."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easq_rec.errors import UserError
from easq_rec.run_directory.config_file import read_values
from easq_rec.run_directory.event_file import WINDOW, Event, read_events
from easq_rec.run_directory.metrics_file import FINAL, HOLDOUT, Metrics, Record, read_metrics
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory, published
from easq_rec.run_directory.processes import accepts_signals

SILENT_S = 900.0
"""After so many seconds without a write, a run on another host counts as silent."""

State = Literal["running", "finished", "stopped", "failed", "killed", "silent", "unknown"]
"""- finished: trained to its end and evaluated
- stopped: ended with a checkpoint, after a signal or at `trainer.stop_at_step`; it can be resumed
- failed: ended by an exception or a rank that hung, which `runs show` prints
- running: the process of rank 0 is alive on this host, or is on another host and wrote within 15 minutes
- killed: the process of rank 0 is gone and logged no reason
- silent: the run is on another host and wrote nothing for 15 minutes
- unknown: there are no logs
"""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What the files of a run say."""

    directory: Path
    config: dict[str, Any]
    events: list[Event]
    """Events of all ranks by time. Of several windows of steps in a row, only the last."""
    records: list[Record]
    """Records of metrics. Of several training steps in a row, only the last."""
    torn: dict[str, int]
    """Number of incomplete lines that were skipped, by the name of the file. Only files that have some."""

    @property
    def recipe(self) -> str:
        return str(self.config.get("recipe", "?"))

    @property
    def starts(self) -> list[Event]:
        """Starts of rank 0: the first, and those after restarts."""
        return [event for event in self.events if event.name == "start" and event.rank == 0]

    @property
    def world_size(self) -> int | None:
        """Number of ranks at the newest start."""
        return self.starts[-1].fields.get("world_size") if self.starts else None

    @property
    def step(self) -> int:
        """The last step that was logged or saved."""
        logged = [record.step for record in self.records]
        return max([*logged, *(checkpoint.step for checkpoint in self.checkpoints)], default=0)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None: not known yet."""
        found = [event.fields.get("of") for event in self.events if event.name == WINDOW]
        return found[-1] if found else None

    @property
    def checkpoints(self) -> list[CheckpointDirectory]:
        return published(RunDirectory(self.directory).checkpoints)

    @property
    def held_out(self) -> Record | None:
        """The final metrics, or else those of the last evaluation during training."""
        found = [record for record in self.records if record.split in (HOLDOUT, FINAL)]
        return max(found, key=lambda record: (record.split == FINAL, record.step), default=None)

    @property
    def last_sign(self) -> float:
        """When a file was last written, in seconds since 1970."""
        files = [*self.directory.glob("*"), *RunDirectory(self.directory).logs.glob("*")]
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
        # The failure of any rank counts, even if rank 0 has finished: the launcher reports a failure as well.
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


def find_runs(roots: list[Path]) -> Iterator[Path]:
    """The run directories in and below some directories.

    Raises:
        UserError: one of them is no directory.
    """
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such directory")
        for path, folders, _ in os.walk(root):
            paths = RunDirectory(Path(path))
            if paths.looks_like_a_run():
                yield paths.path
                skipped = {folder.name for folder in paths.folders}
                folders[:] = [name for name in folders if name not in skipped]
            folders.sort()


def read_run(directory: Path) -> RunStatus:
    """Reads config, events and metrics of a run.

    Raises:
        UserError: the directory is not that of a run, or a file of it cannot be read. Names the file.
    """
    paths = RunDirectory(directory)
    config = read_values(directory)
    logs = {file: read_events(file) for file in paths.all_logs()}
    events = [event for log in logs.values() for event in log.events]
    metrics = read_metrics(paths.metrics, condensed=True) if paths.metrics.exists() else Metrics(records=[])
    torn = {
        paths.metrics.name: metrics.torn,
        **{f"{paths.logs.name}/{file.name}": log.torn for file, log in logs.items()},
    }
    return RunStatus(
        directory=directory,
        config=config,
        events=sorted(events, key=lambda event: event.time),
        records=metrics.records,
        torn={name: count for name, count in torn.items() if count},
    )


def _alive(pid: int, started: datetime.datetime) -> bool:
    """Whether the process that started at this time is alive, and not a later process with the same number."""
    try:
        # The entry in /proc is as old as the process, up to a second or two.
        began = Path(f"/proc/{pid}").stat().st_mtime
        # The state follows the name of the program, which may contain anything and ends at the last parenthesis.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return accepts_signals(pid)
    if state in "ZX":
        # It has ended, and its parent has not collected its exit code yet.
        return False
    return began <= started.timestamp() + 5
