"""Runs one cell in a process and reads its result. Local studies and Ray tasks use the same code."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.metrics_file import final_record, read_records
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.tools.studies.grid import BY_USER, Cell
from easq_rec.tools.studies.store import Run, Store, write_json

LAST_LINES = 6
"""Number of log lines shown for a failed cell."""


class CellFailed(Exception):
    """A cell failed; the message states how, and the path of its log."""


class CellKilled(CellFailed):
    """A signal ended the process of a cell, so that another try may succeed."""


class Execution:
    """Runs cells, one process each; several threads may use it at the same time.

    Args:
        program: command of every cell, to which the path of its config and its arguments are appended; None: the
            program of each cell.
        environment: variables of the processes in addition to those of this process.
    """

    def __init__(
        self, store: Store, *, program: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._store = store
        self._program = program
        self._environment = dict(environment or {})
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, cell: Cell, data: str) -> Run:
        """Runs a cell on the data at this path or URL. The result is not saved.

        Raises:
            CellKilled: a signal ended its process.
            CellFailed: it failed in another way.
        """
        log = self._store.log(cell)
        try:
            run_dir = self._store.new_run_dir(cell)
            path = run_dir.with_suffix(".json")
            config = dataclasses.replace(
                cell.config, run_dir=str(run_dir), data=dataclasses.replace(cell.config.data, path=data)
            )
            write_json(path, to_dict(config))
            log.parent.mkdir(parents=True, exist_ok=True)
            begin = time.perf_counter()
            program = self._program or (sys.executable, "-m", cell.program)
            served = [*(f"{weight:g}" for weight in cell.fuse), *(str(addition) for addition in cell.additions)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(cell.cpus), **self._environment}
            code = self._call([*program, str(path), *cell.arguments, *served], log, environment)
        except OSError as error:
            raise CellFailed(f"failed: {error}") from error
        metrics = _final_metrics(run_dir)
        if code < 0:
            raise CellKilled(_failure(f"was killed by signal {-code}", log))
        if code or metrics is None:
            raise CellFailed(_failure(f"failed with exit code {code}" if code else "wrote no final metrics", log))
        fused = json.loads(RunDirectory(run_dir).fused.read_text()) if cell.fuse or cell.additions else {}
        users = None
        if BY_USER in cell.arguments:
            users = self._store.users(cell)
            users.parent.mkdir(exist_ok=True)
            RunDirectory(run_dir).user_metrics.replace(users)
        history = _history(run_dir, cell.keep)
        # A study has many cells and does not need their models again.
        shutil.rmtree(RunDirectory(run_dir).checkpoints, ignore_errors=True)
        return Run(
            cell=cell,
            metrics=metrics,
            fused=fused,
            history=history,
            seconds=time.perf_counter() - begin,
            user_metrics=users,
        )

    def _call(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
        """Exit code of a process. Its output goes to a file; its input is a pipe that only this process holds."""
        with log.open("wb") as output:
            with self._lock:
                if self._stopped:
                    raise CellFailed("not run")
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C goes only to the study, which then ends its cells.
                    start_new_session=True,
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._processes.discard(process)
                assert process.stdin is not None
                process.stdin.close()

    def stop(self) -> None:
        """Kills all processes; their cells will run again from the start."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.kill()


def _final_metrics(run_dir: Path) -> dict[str, float] | None:
    """The final metrics of a run; None if it did not reach its end."""
    final = final_record(RunDirectory(run_dir).metrics)
    return final.all_values if final is not None else None


def _history(run_dir: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Logged (step, value) pairs of metrics."""
    records = read_records(RunDirectory(run_dir).metrics) if names else []
    return {name: [(record.step, record.values[name]) for record in records if name in record.values] for name in names}


def _failure(how: str, log: Path) -> str:
    """How a cell failed, and the end of its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n    ".join([f"{how}; the end of {log}:", *lines[-LAST_LINES:]])
