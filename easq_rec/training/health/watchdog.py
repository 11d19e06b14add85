"""Finds a rank that hangs, names it, and ends the job so that its launcher can start it again.

The ranks that wait for a hanging one only see a collective that does not return, and gloo's error after its timeout
names no rank. So a thread of every rank writes the rank's phase (`easq_rec.training.phases`) to a file that all ranks
can read. When a rank stays in one phase for too long, the files of all ranks tell which of them is behind.

Clocks of different hosts are not compared: a process lives if its file changes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from easq_rec import json_file
from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import RunDirectory, hang_name, position_name, stacks_name
from easq_rec.training.phases import Phases
from easq_rec.training.process import Runtime

EXIT_CODE = 75
"""EX_TEMPFAIL: the job may be started again."""
SUSPICION = 0.25
"""Share of its timeout after which a rank begins to compare the files of the others."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a rank has come, as its watchdog wrote it."""

    job: str
    """One start of all ranks. A run directory may hold files of an earlier start."""
    rank: int
    host: str
    pid: int
    parent: int
    """Process id of its launcher."""
    beat: int
    """How often the watchdog has written."""
    step: int | None
    """Steps that it has made; None while it starts."""
    entered: int
    """Phases that it has entered since then."""
    phase: str
    waits: bool
    """Whether the phase is to wait for other ranks."""
    age_s: float
    """How long it has been in the phase."""

    @property
    def progress(self) -> tuple[int, int]:
        """Orders the ranks, which all enter the same phases in the same order."""
        return (-1 if self.step is None else self.step, self.entered)

    def __str__(self) -> str:
        when = "starting" if self.step is None else f"after step {self.step}"
        return f"{when}, for {self.age_s:.0f} s in phase {self.phase}"


class Watchdog:
    """Watches the phases of this process.

    Args:
        directory: where all ranks write their positions.
        job: the same on all ranks, and another in every start.
        timeout_s: how long a phase may take.
    """

    def __init__(self, directory: Path, runtime: Runtime, job: str, timeout_s: float) -> None:
        self._runtime, self._job, self._timeout_s = runtime, job, timeout_s
        self._phases: Phases = runtime.phases
        self._beat = 0
        self._board = Board(directory, job, runtime.world_size)
        self._stacks = directory / stacks_name(runtime.rank)
        self._held_until = 0.0
        """When this process last went on after it had been held up, in `time.monotonic` seconds."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._board.write(self.position())
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._board.remove(self._runtime.rank)

    def position(self) -> Position:
        """The present position of this rank."""
        self._beat += 1
        current = self._phases.current
        return Position(
            job=self._job,
            rank=self._runtime.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            parent=os.getppid(),
            beat=self._beat,
            step=current.step,
            entered=current.entered,
            phase=str(current),
            waits=current.waits,
            age_s=time.monotonic() - current.since,
        )

    @property
    def _interval_s(self) -> float:
        return min(max(self._timeout_s / 20, 0.1), 2.0)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self._interval_s):
            now = time.monotonic()
            if now - before > 3 * self._interval_s + 2:
                # This process was held up itself. What the others did meanwhile is not known yet.
                self._held_until = now
            before = now
            self._board.write(self.position())
            age_s = now - max(self._phases.current.since, self._held_until)
            if age_s < SUSPICION * self._timeout_s:
                self._board.forget()
                continue
            self._board.read()
            if age_s > self._timeout_s:
                self._end_job()

    def _end_job(self) -> None:
        """Reports who hangs, kills processes of this host that cannot end themselves, and ends this process.

        Returns if the rank entered another phase after all.
        """
        # The timeouts of the ranks end at about the same time, so their last positions are written by then.
        phase = self._phases.current
        if self._over.wait(2 * self._interval_s) or self._phases.current is not phase:
            return
        own = self.position()
        self._board.write(own)
        self._board.read()
        positions = {**self._board.positions, own.rank: own}
        gone = self._board.silent() - {own.rank}
        suspects = find_suspects(list(positions.values()), gone, self._runtime.world_size)
        text = report(list(positions.values()), suspects, gone, self._timeout_s)
        event("hang", level=logging.ERROR, step=own.step, report=text)
        # One rank prints the whole report.
        text = text if self._board.claim(text) else text.splitlines()[0]
        # One write: print appends its newline in a second one, between which another rank may write.
        print(f"easq-rec: {text}\n", end="", file=sys.stderr, flush=True)
        self._dump_stacks(shown=own.rank in suspects)
        for rank in gone:
            kill(positions[rank])
        os._exit(EXIT_CODE)

    def _dump_stacks(self, *, shown: bool) -> None:
        """Writes the stacks of all threads of this process to its file; `shown`: to stderr as well."""
        with contextlib.suppress(OSError), self._stacks.open("w") as file:
            faulthandler.dump_traceback(file)
        if shown:
            print(f"stacks of rank {self._runtime.rank}", file=sys.stderr, flush=True)
            # A stream that replaces stderr may have no file descriptor.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                faulthandler.dump_traceback(sys.stderr)


class Board:
    """Positions of all ranks of one start: one small file per rank, in a directory that all of them can read."""

    def __init__(self, directory: Path, job: str, ranks: int) -> None:
        self._directory, self._job, self._ranks = directory, job, ranks
        self.positions: dict[int, Position] = {}
        """By rank, as they were read last."""
        self._first: dict[int, int] = {}
        """By rank the beat that was read first."""

    def write(self, position: Position) -> None:
        # In place: if a file is replaced, other hosts of a network file system may see the old one for a minute.
        # The run goes on if its directory cannot be written for a moment.
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._path(position.rank).write_text(json_file.text(asdict(position)))

    def read(self) -> None:
        for rank in range(self._ranks):
            # A half-written file is read next time; a file with other fields is of another version, hence another job.
            with contextlib.suppress(OSError, ValueError, TypeError):
                position = Position(**json.loads(self._path(rank).read_text()))
                if position.job == self._job:
                    self.positions[rank] = position
                    self._first.setdefault(rank, position.beat)

    def silent(self) -> set[int]:
        """Ranks that have written nothing since they were first read: their processes are stopped or gone."""
        return {rank for rank, position in self.positions.items() if position.beat == self._first[rank]}

    def forget(self) -> None:
        """Drops all that was read."""
        self.positions, self._first = {}, {}

    def remove(self, rank: int) -> None:
        """Removes the file of a rank, and the directories if they are empty."""
        with contextlib.suppress(OSError):
            self._path(rank).unlink(missing_ok=True)
            self._directory.rmdir()
            self._directory.parent.rmdir()

    def claim(self, text: str) -> bool:
        """Whether this rank is the first to report; its report is then written to a file."""
        try:
            with (self._directory / hang_name(self._job)).open("x") as file:
                file.write(f"{text}\n")
        except FileExistsError:
            return False
        except OSError:
            pass
        return True

    def _path(self, rank: int) -> Path:
        return self._directory / position_name(rank)


@contextlib.contextmanager
def watched(run_dir: Path, runtime: Runtime, timeout_s: float) -> Iterator[None]:
    """Watches this rank within the block. A single rank waits for nobody and is not watched."""
    if runtime.world_size == 1:
        yield
        return
    watchdog = Watchdog(RunDirectory(run_dir).logs, runtime, runtime.share(uuid.uuid4().hex[:8]), timeout_s)
    watchdog.start()
    try:
        yield
        # The watchdogs of ranks that wait for a hanging one would report a rank that has left as missing.
        runtime.barrier()
    finally:
        watchdog.stop()


def kill(position: Position) -> None:
    """Kills the process of a rank if it is a child of this process's launcher: its id may belong to another by now."""
    if position.host != socket.gethostname() or position.parent != os.getppid():
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program, in parentheses, may contain anything.
        parent = int(Path(f"/proc/{position.pid}/stat").read_text().rpartition(")")[2].split()[1])
        if parent == position.parent:
            os.kill(position.pid, signal.SIGKILL)


def find_suspects(positions: list[Position], gone: set[int], ranks: int) -> list[int]:
    """The ranks that may hang.

    Args:
        gone: ranks whose files do not change any more.
        ranks: how many there are.
    """
    missing = set(range(ranks)) - {position.rank for position in positions}
    if gone or missing:
        return sorted(gone | missing)
    # A rank that waits for others is not to blame, unless all wait. Among the rest, the one that is behind is.
    candidates = [position for position in positions if not position.waits] or positions
    behind = min(position.progress for position in candidates)
    return sorted(position.rank for position in candidates if position.progress == behind)


def report(positions: list[Position], suspects: list[int], gone: set[int], timeout_s: float) -> str:
    """Who hangs, and the phase of every rank.

    Args:
        suspects: as `find_suspects` returns them.
    """
    names = ", ".join(map(str, suspects))
    blame = f"rank {names} hangs" if len(suspects) == 1 else f"one of ranks {names} hangs"
    lines = [f"no progress for {timeout_s:g} s (trainer.timeout_s): {blame}. The job ends"]
    found = {position.rank: position for position in positions}
    for rank in sorted({*found, *suspects}):
        if rank not in found:
            lines.append(f"  rank {rank} has not started, or has left")
        elif rank in gone:
            position = found[rank]
            lines.append(
                f"  rank {rank} gives no sign of life: its process (pid {position.pid} on {position.host}) is stopped, "
                f"gone, or held where Python cannot run; last seen {position}"
            )
        else:
            lines.append(f"  rank {rank} {found[rank]}")
    return "\n".join(lines)
