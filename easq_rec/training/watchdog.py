"""A job in which one rank hangs: found out, named, and ended, so that its launcher can start it anew.

The ranks that wait for a hung one see nothing but a collective that does not return, and gloo's message after its
timeout names neither rank nor collective. Here a thread of every rank looks at the main thread from time to time and
writes down what it sees: its step, and by its stack in which collective it waits, or where else it is. When a step has
not come to its end for too long, what all ranks have written tells which of them is to blame. Steps pay nothing for it
but one assignment.
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
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from easq_rec.training.events import FOLDER, event
from easq_rec.training.runtime import Runtime

EXIT_CODE = 75
"""EX_TEMPFAIL: start it again."""
PACKAGE = Path(__file__).parents[1]
COLLECTIVES = {
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_to_all", "all_to_all_single"),
    *("barrier", "broadcast", "broadcast_object_list", "gather_object", "reduce_scatter", "reduce_scatter_tensor"),
    *("scatter_object_list", "init_process_group", "new_group"),
}
"""Functions of torch.distributed that return when other ranks have come to them as well."""
BACKWARD = "_engine_run_backward"
"""Autograd's entry."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a rank is, as its watchdog saw it last."""

    rank: int
    host: str
    pid: int
    step: int
    """Steps it has made."""
    since: float
    """When it made the last, or came to life; seconds since 1970."""
    seen: float
    """When the watchdog wrote this."""
    doing: str
    waits: bool
    """Whether for other ranks."""
    stack: str


class Watchdog:
    """Watches this process's main thread.

    Args:
        directory: where all ranks write their positions.
        patience_s: how long a step may take.
    """

    def __init__(self, directory: Path, runtime: Runtime, patience_s: float) -> None:
        self._directory, self._runtime, self._patience_s = directory, runtime, patience_s
        self._main = threading.main_thread().ident
        self._step, self._since = 0, time.time()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def progress(self, step: int) -> None:
        """The main thread has come this far."""
        self._step, self._since = step, time.time()

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._publish()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._path(self._runtime.rank).unlink(missing_ok=True)

    @property
    def _interval_s(self) -> float:
        return min(max(self._patience_s / 20, 0.2), 5.0)

    def _watch(self) -> None:
        seen = time.time()
        while not self._over.wait(self._interval_s):
            if time.time() - seen > 3 * self._interval_s + 2:
                # This process itself was held up: what the others did meanwhile is not known yet.
                self._since = time.time()
            seen = time.time()
            self._publish()
            if seen - self._since > self._patience_s:
                self._end()

    def _publish(self) -> None:
        path = self._path(self._runtime.rank)
        partial = path.with_suffix(".partial")
        # The run goes on where its directory cannot be written for a moment.
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(asdict(self._position())))
            partial.rename(path)

    def _position(self) -> Position:
        frame = sys._current_frames().get(self._main or 0)
        doing, waits = describe(frame)
        return Position(
            rank=self._runtime.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            step=self._step,
            since=self._since,
            seen=time.time(),
            doing=doing,
            waits=waits,
            stack="".join(traceback.format_stack(frame)) if frame is not None else "",
        )

    def _end(self) -> None:
        """Says who hangs, ends what cannot end itself on this host, and then this process."""
        # Ranks lose their patience at about the same time; what they have written by then is worth waiting for.
        time.sleep(2 * self._interval_s)
        self._publish()
        positions = list(self._positions())
        told = report(positions, self._runtime.world_size, self._patience_s, self._interval_s)
        event("hang", level=logging.ERROR, step=self._step, report=told)
        gone = silent(positions, self._interval_s)
        alive = [position.rank for position in positions if position not in gone]
        # One of them says it all.
        told = told if self._runtime.rank == min(alive, default=self._runtime.rank) else told.splitlines()[0]
        print(f"easq-rec: {told}", file=sys.stderr, flush=True)
        for position in gone:
            if position.host == socket.gethostname() and position.rank != self._runtime.rank:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(position.pid, signal.SIGKILL)
        os._exit(EXIT_CODE)

    def _positions(self) -> Iterator[Position]:
        for rank in range(self._runtime.world_size):
            with contextlib.suppress(OSError, ValueError, TypeError):
                yield Position(**json.loads(self._path(rank).read_text()))

    def _path(self, rank: int) -> Path:
        return self._directory / f"position_{rank}.json"


@contextlib.contextmanager
def watched(run_dir: Path, runtime: Runtime, patience_s: float) -> Iterator[Watchdog]:
    """A watchdog over what is done within; one rank alone waits for nobody and is not watched."""
    watchdog = Watchdog(run_dir / FOLDER, runtime, patience_s)
    if runtime.world_size == 1:
        yield watchdog
        return
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()


def describe(frame: FrameType | None) -> tuple[str, bool]:
    """(what a thread does, whether it waits for other ranks), by its stack."""
    collective, backward, own = None, False, None
    while frame is not None:
        code, file = frame.f_code, frame.f_code.co_filename
        upstream = "torch/distributed/" in file or "torchrec/" in file
        if upstream and code.co_name in COLLECTIVES:
            # The outermost of them is what was called.
            collective = code.co_name
        elif upstream and code.co_name == "wait" and collective is None:
            collective = _awaited(frame.f_locals.get("self"))
        backward = backward or code.co_name == BACKWARD
        if own is None and file.startswith(str(PACKAGE)):
            own = f"{Path(file).relative_to(PACKAGE)}:{frame.f_lineno} ({code.co_name})"
        frame = frame.f_back
    where = f" at {own}" if own is not None else ""
    if collective is not None:
        return f"waits in {collective}{' of the backward pass' if backward else ''}{where}", True
    if backward:
        return f"is in the backward pass{where}", False
    return f"is{where or ' outside of easq-rec'}", False


def _awaited(awaitable: object) -> str:
    """TorchRec's name of an exchange that is under way, such as All2All_Pooled_Wait."""
    function = getattr(awaitable, "wait_function", None)
    return str(getattr(function, "__name__", type(awaitable).__name__))


def silent(positions: list[Position], interval_s: float) -> list[Position]:
    """Ranks whose watchdogs have stopped writing: their processes are stopped, or gone."""
    return [position for position in positions if time.time() - position.seen > 4 * interval_s + 1]


def report(positions: list[Position], ranks: int, patience_s: float, interval_s: float) -> str:
    """Who hangs, and what every rank is doing."""
    gone = {position.rank for position in silent(positions, interval_s)}
    missing = sorted(set(range(ranks)) - {position.rank for position in positions})
    suspects = sorted(gone) + missing or [position.rank for position in positions if not position.waits]
    if not suspects:
        behind = min(position.step for position in positions)
        suspects = [position.rank for position in positions if position.step == behind]
    names = ", ".join(map(str, suspects))
    blame = f"rank {names} hangs" if len(suspects) == 1 else f"one of ranks {names} hangs"
    lines = [f"no step came to its end for {patience_s:g} s (trainer.timeout_s): {blame}. The job is ended here"]
    for position in positions:
        told = f"after step {position.step} {position.doing}"
        if position.rank in gone:
            told = (
                f"gives no sign of life since {time.time() - position.seen:.0f} s, its process (pid {position.pid} on "
                f"{position.host}) is stopped or gone; it was last seen {told.replace(' is ', ' ', 1)}"
            )
        lines.append(f"  rank {position.rank} {told}")
    lines += [f"  rank {rank} has not come to life" for rank in missing]
    for position in positions:
        if position.rank in suspects and position.stack and len(suspects) == 1:
            lines.append(f"stack of rank {position.rank}:\n{position.stack.rstrip()}")
    return "\n".join(lines)
