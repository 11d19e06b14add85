"""A job in which one rank hangs: found out, named, and ended, so that its launcher can start it anew.

The ranks that wait for a hung one see nothing but a collective that does not return, and gloo's message after its
timeout names neither rank nor collective. Here a thread of every rank looks at the main thread from time to time and
writes down what it sees: its step, and by its stack in which collective it waits, or where else it is. When a step has
not come to its end for too long, what all ranks have written tells which of them is to blame. Steps pay nothing for it
but one assignment.

No rank believes another's clock: a process gives a sign of life when what it writes changes.
"""

from __future__ import annotations

import contextlib
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

from easq_rec.run_directory.events import FOLDER, event
from easq_rec.training.health import stacks
from easq_rec.training.process import Runtime

EXIT_CODE = 75
"""EX_TEMPFAIL: start it again."""
SUSPICION = 0.25
"""Share of its patience after which a rank begins to listen for signs of life of the others."""
SHOWN = 4
"""Suspects whose stacks are printed."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a rank is, as its watchdog saw it last."""

    job: str
    """One start of all ranks. A run directory may hold what an earlier one has left."""
    rank: int
    host: str
    pid: int
    parent: int
    """Process id of its launcher."""
    beat: int
    """How often the watchdog has written."""
    step: int | None
    """Steps it has made; None: it is still starting."""
    age_s: float
    """How long ago it made the last, or came further in its start."""
    doing: str
    waits: bool
    """Whether for other ranks."""
    stack: str

    def __str__(self) -> str:
        when = "into start-up" if self.step is None else f"after step {self.step}"
        return f"{self.age_s:.0f} s {when}, {self.doing}"


class Watchdog:
    """Watches this process's main thread.

    Args:
        directory: where all ranks write their positions.
        job: the same on all ranks, and another in every start.
        patience_s: how long a step may take.
    """

    def __init__(self, directory: Path, runtime: Runtime, job: str, patience_s: float) -> None:
        self._runtime, self._job, self._patience_s = runtime, job, patience_s
        self._main = threading.main_thread().ident or 0
        self._step: int | None = None
        self._since = time.monotonic()
        self._beat = 0
        self._board = Board(directory, job, runtime.world_size)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def progress(self, step: int | None) -> None:
        """The main thread has come this far: so many steps, or None for further in its start."""
        self._step, self._since = step, time.monotonic()

    def start(self) -> None:
        self._board.write(self.position())
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._board.remove(self._runtime.rank)

    @property
    def _interval_s(self) -> float:
        return min(max(self._patience_s / 20, 0.1), 2.0)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self._interval_s):
            now = time.monotonic()
            if now - before > 3 * self._interval_s + 2:
                # This process itself was held up: what the others did meanwhile is not known yet.
                self._since = now
            before = now
            self._board.write(self.position())
            if now - self._since < SUSPICION * self._patience_s:
                self._board.forget()
                continue
            self._board.read()
            if now - self._since > self._patience_s:
                self._end()

    def position(self) -> Position:
        """Where this rank is."""
        self._beat += 1
        doing = stacks.look(self._main)
        return Position(
            job=self._job,
            rank=self._runtime.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            parent=os.getppid(),
            beat=self._beat,
            step=self._step,
            age_s=time.monotonic() - self._since,
            doing=doing.what,
            waits=doing.waits,
            stack=doing.stack,
        )

    def _end(self) -> None:
        """Says who hangs, ends what cannot end itself on this host, and then this process.

        Comes back where a step has ended after all.
        """
        # Ranks lose their patience at about the same time; what they have written by then is worth waiting for.
        since = self._since
        if self._over.wait(2 * self._interval_s) or self._since != since:
            return
        mine = self.position()
        self._board.write(mine)
        self._board.read()
        positions = {**self._board.positions, mine.rank: mine}
        gone = self._board.silent() - {mine.rank}
        told = report(list(positions.values()), gone, self._runtime.world_size, self._patience_s)
        event("hang", level=logging.ERROR, step=mine.step, report=told)
        # One of them says it all.
        told = told if self._board.claim(told) else told.splitlines()[0]
        print(f"easq-rec: {told}", file=sys.stderr, flush=True)
        for rank in gone:
            kill(positions[rank])
        os._exit(EXIT_CODE)


class Board:
    """Positions of all ranks of one start, a small file for each, in a directory that all of them see."""

    def __init__(self, directory: Path, job: str, ranks: int) -> None:
        self._directory, self._job, self._ranks = directory, job, ranks
        self.positions: dict[int, Position] = {}
        """Of the ranks, as they were read last."""
        self._first: dict[int, int] = {}
        """Beats of the ranks when they were first read."""

    def write(self, position: Position) -> None:
        # In place: of a file that is replaced, other hosts of a network file system may see the old one for a minute.
        # The run goes on where its directory cannot be written for a moment.
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._path(position.rank).write_text(json.dumps(asdict(position)))

    def read(self) -> None:
        for rank in range(self._ranks):
            # Half written is as good as not yet; fields of another version are not of this job.
            with contextlib.suppress(OSError, ValueError, TypeError):
                position = Position(**json.loads(self._path(rank).read_text()))
                if position.job == self._job:
                    self.positions[rank] = position
                    self._first.setdefault(rank, position.beat)

    def silent(self) -> set[int]:
        """Ranks that have written nothing since they were first read: their processes are stopped, or gone."""
        return {rank for rank, position in self.positions.items() if position.beat == self._first[rank]}

    def forget(self) -> None:
        """All that was read."""
        self.positions, self._first = {}, {}

    def remove(self, rank: int) -> None:
        """What a rank has written, and the directories, where it came to nothing else in them."""
        with contextlib.suppress(OSError):
            self._path(rank).unlink(missing_ok=True)
            self._directory.rmdir()
            self._directory.parent.rmdir()

    def claim(self, told: str) -> bool:
        """Whether this rank is the first to report; what it says is then in a file as well."""
        try:
            with (self._directory / f"hang_{self._job}.txt").open("x") as file:
                file.write(f"{told}\n")
        except FileExistsError:
            return False
        except OSError:
            pass
        return True

    def _path(self, rank: int) -> Path:
        return self._directory / f"position_{rank}.json"


@contextlib.contextmanager
def watched(run_dir: Path, runtime: Runtime, patience_s: float) -> Iterator[Watchdog]:
    """A watchdog over what is done within; one rank alone waits for nobody and is not watched."""
    alone = runtime.world_size == 1
    job = "" if alone else runtime.share(uuid.uuid4().hex[:8])
    watchdog = Watchdog(run_dir / FOLDER, runtime, job, patience_s)
    if alone:
        yield watchdog
        return
    watchdog.start()
    try:
        yield watchdog
        # A rank that has left would be looked for, and be found missing, by those that wait for a hung one.
        runtime.barrier()
    finally:
        watchdog.stop()


def kill(position: Position) -> None:
    """Ends the process of a rank, if it is another child of this one's launcher: its number may be another's by now."""
    if position.host != socket.gethostname() or position.parent != os.getppid():
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program, in parentheses, may hold anything.
        parent = int(Path(f"/proc/{position.pid}/stat").read_text().rpartition(")")[2].split()[1])
        if parent == position.parent:
            os.kill(position.pid, signal.SIGKILL)


def report(positions: list[Position], gone: set[int], ranks: int, patience_s: float) -> str:
    """Who hangs, and what every rank is doing.

    Args:
        gone: ranks that give no sign of life.
    """
    positions = sorted(positions, key=lambda position: position.rank)
    missing = sorted(set(range(ranks)) - {position.rank for position in positions})
    suspects = sorted(gone) + missing
    if not suspects:
        # Who waits for others is not to blame; where all do, or several do not, who is behind is.
        busy = [position for position in positions if not position.waits] or positions
        behind = min(_steps(position) for position in busy)
        suspects = [position.rank for position in busy if _steps(position) == behind]
    names = ", ".join(map(str, suspects))
    blame = f"rank {names} hangs" if len(suspects) == 1 else f"one of ranks {names} hangs"
    lines = [f"no step came to its end for {patience_s:g} s (trainer.timeout_s): {blame}. The job is ended here"]
    for position in positions:
        told = str(position)
        if position.rank in gone:
            told = (
                f"which gives no sign of life: its process (pid {position.pid} on {position.host}) is stopped, gone, "
                f"or held where Python cannot run; last seen {told}"
            )
        lines.append(f"  rank {position.rank}, {told}")
    lines += [f"  rank {rank}, which has not come to life, or has left" for rank in missing]
    for position in [position for position in positions if position.rank in suspects][:SHOWN]:
        lines.append(f"stacks of rank {position.rank}, {position.stack}")
    return "\n".join(lines)


def _steps(position: Position) -> int:
    return -1 if position.step is None else position.step
