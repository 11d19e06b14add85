"""Writes what was served into a data directory, beside the answers and never in their way.

`LOG/requests/TIME-PROCESS-NUMBER.parquet` appears by a rename when it is complete, every few seconds. A process that is
killed loses what it has not written yet. If files cannot be written, answers go on, and what is lost is counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from easq_rec.config import Config
from easq_rec.data.writer import open_writer
from easq_rec.errors import UserError
from easq_rec.export.logged import ScoredCall, requests_table

FILE_REQUESTS = 8_192
"""Requests per file at most, unless a single call has more."""
MOST_CANDIDATES = 2_000_000
"""Candidates that wait to be written at most; more are lost."""
log = logging.getLogger("easq_rec.serve")


@dataclass(frozen=True, kw_only=True)
class LoggedCall:
    """A call, with the config of the package that says which columns it has."""

    scored: ScoredCall
    config: Config


class ServedLog:
    """The log of one process. A thread writes it.

    Args:
        directory: data directory; `requests/` is created in it.
        interval_s: seconds after which what waits is written.
        counted: is told of the requests that were written, and of those that were lost.

    Raises:
        UserError: the directory cannot be written.
    """

    def __init__(
        self, directory: Path, *, interval_s: float, counted: Callable[[int, int], None] = lambda written, lost: None
    ) -> None:
        self._folder = directory / "requests"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe = self._folder / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"--log {directory}: cannot be written: {error.strerror or error}") from error
        self._interval_s = interval_s
        self._counted = counted
        self._waiting: list[LoggedCall] = []
        self._requests = 0
        self._candidates = 0
        self._number = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()

    def add(self, scored: ScoredCall, config: Config) -> None:
        """Notes an answer. Returns at once."""
        with self._changed:
            if self._candidates + scored.call.candidates > MOST_CANDIDATES:
                self._counted(0, scored.call.requests)
                return
            self._waiting.append(LoggedCall(scored=scored, config=config))
            self._requests += scored.call.requests
            self._candidates += scored.call.candidates
            if self._requests >= FILE_REQUESTS:
                self._changed.notify()

    def close(self) -> None:
        """Writes what waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._requests >= FILE_REQUESTS, timeout=self._interval_s
                )
                closed, waiting = self._closed, self._waiting
                self._waiting, self._requests, self._candidates = [], 0, 0
            self._write_all(waiting)
            if closed:
                return

    def _write_all(self, waiting: list[LoggedCall]) -> None:
        """Writes calls in their order, in files of one config each."""
        while waiting:
            config, part = waiting[0].config, list[ScoredCall]()
            requests = 0
            for one in waiting:
                full = requests > 0 and requests + one.scored.call.requests > FILE_REQUESTS
                if one.config is not config or full:
                    break
                part.append(one.scored)
                requests += one.scored.call.requests
            del waiting[: len(part)]
            try:
                self._write(requests_table(config, part))
            except Exception:
                # A log that fails must not end the service; the metric and this line say what is missing.
                log.exception("the log of %d requests is lost", requests)
                self._counted(0, requests)
            else:
                self._counted(requests, 0)

    def _write(self, table: pa.Table) -> None:
        # In the order of time, and unique among processes and machines.
        name = f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{self._number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        self._number += 1
        partial = self._folder / f".{name}.partial"
        try:
            with open_writer(partial, table.schema) as writer:
                writer.write_table(table)
            partial.rename(self._folder / name)
        finally:
            partial.unlink(missing_ok=True)
