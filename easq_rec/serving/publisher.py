"""Exports the checkpoints of a run that trains continuously, in a process of its own beside the training.

Training hands over a checkpoint and goes on. The process starts once, because importing torch takes seconds, and works
at a low priority. It makes one package at a time; of checkpoints that come meanwhile it takes the newest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from easq_rec.config import Config
from easq_rec.errors import UserError
from easq_rec.export.package_copies import PackageCopies
from easq_rec.export.versions import remove_old
from easq_rec.run_directory.checkpoint_files import latest_of
from easq_rec.run_directory.events import event
from easq_rec.training.follow.loop import Publication, Publish

NICE = 10
"""How much lower the priority of the process is than that of training."""
REQUESTS = 256
"""Recent requests on which a package is compared with the ranker at most."""
CLOSE_S = 120.0
"""Seconds that an export may still take when training ends."""
ENDED = "the process that exports has ended; start the run again"


@dataclass(frozen=True, kw_only=True)
class ExportOutcome:
    """What became of a publication. Pickled between the two processes."""

    step: int
    version: str | None
    """Name of the package; None: there is none."""
    problem: str | None
    seconds: float


class PackagePublisher:
    """Hands publications to the process, on rank 0.

    Args:
        say: gets a line about every publication.
    """

    def __init__(self, config: Config, run_dir: Path, say: Callable[[str], None]) -> None:
        assert config.follow.packages is not None
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, config, run_dir), name="easq-publisher", daemon=True
        )
        self._process.start()
        theirs.close()
        self._say = say
        self._output = Path(config.follow.packages)
        self._lock = threading.Lock()
        self._exported: Publication | None = None
        """What the process exports now."""
        self._waiting: Publication | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="publisher", daemon=True)
        self._thread.start()

    def __call__(self, publication: Publication) -> None:
        """Starts an export, or lets it wait for the one that runs. Returns at once."""
        with self._lock:
            if self._exported is not None:
                self._waiting = publication
            else:
                self._send(publication)

    def _send(self, publication: Publication) -> None:
        try:
            self._connection.send(publication)
        except OSError:
            self._tell(_no_package(publication, ENDED))
        else:
            self._exported = publication

    def _tell(self, outcome: ExportOutcome) -> None:
        """Reports what became of a publication, to the log and to the user."""
        event("published" if outcome.version is not None else "not_published", **dataclasses.asdict(outcome))
        if outcome.version is None:
            self._say(f"step {outcome.step} is not published: {outcome.problem}")
        else:
            self._say(f"step {outcome.step} is published as {outcome.version} ({outcome.seconds:.1f} s)")

    def _listen(self) -> None:
        """Reports every outcome, and hands over what waits."""
        while True:
            try:
                outcome = self._connection.recv()
            except (EOFError, OSError):
                break
            assert isinstance(outcome, ExportOutcome)
            self._tell(outcome)
            with self._lock:
                self._exported, publication, self._waiting = None, self._waiting, None
                if publication is not None:
                    self._send(publication)
        with self._lock:
            lost = [one for one in (self._exported, self._waiting) if one is not None]
            self._exported = self._waiting = None
            if not self._closed:
                for publication in lost:
                    self._tell(_no_package(publication, ENDED))

    def close(self) -> None:
        """Waits for the package that is being made, and ends the process."""
        with self._lock:
            self._closed, self._waiting = True, None
            with contextlib.suppress(OSError):
                self._connection.send(None)
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
            for partial in self._output.glob(f".*.{self._process.pid}.*.tmp"):
                shutil.rmtree(partial, ignore_errors=True)
        self._thread.join(5)


def _no_package(publication: Publication, problem: str) -> ExportOutcome:
    return ExportOutcome(step=publication.step, version=None, problem=problem, seconds=0.0)


@contextlib.contextmanager
def opened(config: Config, run_dir: Path, say: Callable[[str], None]) -> Iterator[Publish]:
    """A publisher of a run. It ends with the block."""
    publisher = PackagePublisher(config, run_dir, say)
    try:
        yield publisher
    finally:
        publisher.close()


def _work(connection: Connection, config: Config, run_dir: Path) -> None:
    """Exports every publication that it receives, until it receives None."""
    # Ctrl-C reaches all processes of a terminal. Training ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(NICE)
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            publication = connection.recv()
        except (EOFError, OSError):
            return
        if publication is None:
            return
        assert isinstance(publication, Publication)
        with contextlib.suppress(OSError):
            connection.send(_export(config, run_dir, publication))


def _export(config: Config, run_dir: Path, publication: Publication) -> ExportOutcome:
    # It takes seconds to import, and only the process that exports needs it.
    from easq_rec.serving.export import export

    begin, output = time.perf_counter(), Path(str(config.follow.packages))
    stream = {"clock_ms": publication.clock_ms, "metrics": dict(publication.metrics)}
    count = min(REQUESTS, len(publication.requests))
    version = problem = None
    try:
        newest = latest_of(run_dir).step
        if newest < publication.step:
            raise UserError(f"the newest checkpoint is that of step {newest}")
        found = export(config, run_dir, output, requests=publication.requests.slice(0, count), stream=stream)
        remove_old(output, config.follow.keep_packages)
        if config.follow.copy_packages_to is not None:
            PackageCopies(config.follow.copy_packages_to).upload(output, keep=config.follow.keep_packages)
        version = found.folder.name
    except Exception as error:
        # Whatever fails: training goes on, and the next checkpoint is tried.
        problem = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return ExportOutcome(step=publication.step, version=version, problem=problem, seconds=time.perf_counter() - begin)
