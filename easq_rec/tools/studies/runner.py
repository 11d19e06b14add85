"""Runs the cells of a study in parallel processes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

from easq_rec.config import Config
from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.metrics_file import final_record, read_records
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.store import Run, Store, write_json

LAST_LINES = 6
"""Number of log lines shown for a failed cell."""
POLL_S = 2.0
"""Pause between checks for cells that other processes run."""
SHOWN = {"satisfaction": "satisfaction_ndcg5", "engagement": "engagement_ndcg5"}


class CellFailed(Exception):
    """A cell failed; the message states how, and the path of its log."""


class Runner:
    """Runs cells, one process each.

    Args:
        program: command of every cell, to which the path of its config and its arguments are appended; None: the
            program of each cell.
    """

    def __init__(self, store: Store, *, jobs: int, program: Sequence[str] | None = None) -> None:
        self._store = store
        self._jobs = jobs
        self._program = program
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, cells: Sequence[Cell]) -> tuple[list[Run], list[str]]:
        """Runs the cells that have no result yet, and saves each result when it is ready.

        In a shared store, this process waits for cells that other processes run, and runs them if those processes end
        without a result: so all processes see the same results and finish at the same time.

        Returns:
            the results, in the order of the cells, and the names of those that failed here and have no result.

        Raises:
            UserError: a cell was run before with another config.
        """
        found = self._store.finished(cells)
        if found:
            print(f"{len(found)} of {len(cells)} cells are already finished", flush=True)
        failed: list[str] = []
        while todo := [cell for cell in cells if cell.name not in found and cell.name not in failed]:
            known = len(found) + len(failed)
            with ThreadPoolExecutor(self._jobs) as pool:
                futures = {pool.submit(self._claim, cell): cell for cell in todo}
                try:
                    for future in as_completed(futures):
                        cell = futures[future]
                        try:
                            run = future.result()
                        except CellFailed as failure:
                            failed.append(cell.name)
                            said = str(failure)
                        else:
                            if run is None:
                                continue
                            found[cell.name] = run
                            said = f"{_shown(run.metrics)} ({run.seconds:.0f} s)"
                        done = len(found) + len(failed)
                        print(f"{done}/{len(cells)} {cell.label} {cell.block}: {said}", flush=True)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self._stop()
                    raise
            if len(found) + len(failed) == known:
                time.sleep(POLL_S)
        # Another process may have finished a cell that failed here.
        found |= self._store.finished([cell for cell in cells if cell.name in failed])
        return [found[cell.name] for cell in cells if cell.name in found], [
            name for name in failed if name not in found
        ]

    def _claim(self, cell: Cell) -> Run | None:
        """The result of a cell, which is run if needed; None: another process is running it."""
        with self._store.claim(cell) as claim:
            if claim is None:
                return None
            # Another process may have finished it since.
            run = self._store.finished([cell]).get(cell.name)
            return self._run(cell, claim) if run is None else run

    def _run(self, cell: Cell, claim: IO[bytes]) -> Run:
        store, log, run_dir = self._store, self._store.log(cell), self._store.run_dir(cell)
        # Otherwise the run directory of a killed study would be resumed.
        shutil.rmtree(run_dir, ignore_errors=True)
        try:
            data = self._data(cell.config)
            config = dataclasses.replace(
                cell.config, run_dir=str(run_dir), data=dataclasses.replace(cell.config.data, path=data)
            )
            write_json(store.config(cell), to_dict(config))
            log.parent.mkdir(parents=True, exist_ok=True)
            begin = time.perf_counter()
            program = self._program or (sys.executable, "-m", cell.program)
            weights = [f"{weight:g}" for weight in cell.fuse]
            code = self._call([*program, str(store.config(cell)), *cell.arguments, *weights], log, claim)
        except OSError as error:
            raise CellFailed(f"failed: {error}") from error
        metrics = _final_metrics(run_dir)
        if code or metrics is None:
            how = f"failed with exit code {code}" if code else "failed: it wrote no final metrics"
            raise CellFailed("\n    ".join([f"{how}; the end of {log}:", *_last_lines(log)]))
        fused = json.loads(RunDirectory(run_dir).fused.read_text()) if cell.fuse else {}
        history = _history(run_dir, cell.keep)
        run = Run(cell=cell, metrics=metrics, fused=fused, history=history, seconds=time.perf_counter() - begin)
        store.save(run)
        # A study has many cells and does not need their models again.
        shutil.rmtree(RunDirectory(run_dir).checkpoints, ignore_errors=True)
        return run

    def _call(self, command: Sequence[str], log: Path, claim: IO[bytes]) -> int:
        """Exit code of a process. Its output goes to a file; its input is a pipe that only this process holds."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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
                    # If this process is killed, no other process can claim the cell before its child process ends.
                    pass_fds=(claim.fileno(),),
                )
                self._processes.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._processes.discard(process)
                assert process.stdin is not None
                process.stdin.close()

    def _stop(self) -> None:
        """Kills all processes; their cells will run again from the start."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.kill()

    def _data(self, config: Config) -> str:
        """The data of a cell; a world is generated for its first cell."""
        return config.data.path or str(self._store.world(config.world).absolute())


def _final_metrics(run_dir: Path) -> dict[str, float] | None:
    """The final metrics of a run; None if it did not reach its end."""
    final = final_record(RunDirectory(run_dir).metrics)
    return final.all_values if final is not None else None


def _history(run_dir: Path, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Logged (step, value) pairs of metrics."""
    records = list(read_records(RunDirectory(run_dir).metrics)) if names else []
    return {name: [(record.step, record.values[name]) for record in records if name in record.values] for name in names}


def _last_lines(log: Path) -> list[str]:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-LAST_LINES:]


def _shown(metrics: dict[str, float]) -> str:
    """`satisfaction .5310 engagement .6140`."""
    values = {name: metrics.get(key, math.nan) for name, key in SHOWN.items()}
    return " ".join(f"{name} {f'{value:.4f}'.removeprefix('0')}" for name, value in values.items())
