"""The files of a study, which can be killed at any time and continued.

OUT/study.json          name and budget of the study
OUT/cells/CELL.json     the result of a finished cell; written atomically
OUT/configs/, logs/     config and terminal output of every cell
OUT/worlds/, runs/      generated worlds; run directories
OUT/locks/              one lock file for each exclusive operation; .lock: owner of the directory
OUT/results.json, table.md, *.png

Processes on several machines can share it if the file system has locks across machines (NFS from version 4, Lustre
mounted with flock). The system releases a lock when its process ends for any reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from easq_rec.config import World
from easq_rec.errors import UserError
from easq_rec.tools.simulation.world import ensure
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.grid import Cell, differences, digest_of

LOCK, LOCKS = ".lock", "locks"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished cell."""

    cell: Cell
    metrics: dict[str, float]
    """Metrics of the final evaluation by name; NaN if undefined."""
    fused: Mapping[str, dict[str, float]] = field(default_factory=dict)
    """The same metrics for fused scores, by the weight of the reference score."""
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, value) pairs of the metrics that the cell stores, in order."""
    seconds: float
    """Wall time, from the start of its process to its end."""


class Store:
    """The directory of a study.

    Args:
        shared: whether other processes may use it.
    """

    def __init__(self, out: Path, *, shared: bool = False) -> None:
        self.out = out
        self.shared = shared

    def config(self, cell: Cell) -> Path:
        return self.out / "configs" / f"{cell.name}.json"

    def log(self, cell: Cell) -> Path:
        return self.out / "logs" / f"{cell.name}.log"

    def run_dir(self, cell: Cell) -> Path:
        return self.out / "runs" / cell.name

    def world(self, world: World) -> Path:
        """Directory of a world, which is generated at the first request."""
        directory = self.out / "worlds" / f"world-{digest_of(world.identity)}"
        with self.turn(directory.name):
            # Removes files of a killed process: only the holder of the lock writes this world.
            for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            ensure(world, directory)
        return directory

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Excludes all other processes, and other threads of this one, from the same operation."""
        with self._lock_file(what) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[IO[bytes] | None]:
        """Yields the lock of a cell to run it, or None if another process runs it.

        The lock is held while the file is open in any process, including a process that inherits it.
        """
        with self._lock_file(cell.name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield file

    def _lock_file(self, name: str) -> IO[bytes]:
        locks = self.out / LOCKS
        locks.mkdir(exist_ok=True)
        return (locks / f"{name}.lock").open("wb")

    def finished(self, cells: Sequence[Cell]) -> dict[str, Run]:
        """The results of finished cells, by name.

        Raises:
            UserError: a cell was run with another config, or its file is damaged.
        """
        return {cell.name: self._load(cell) for cell in cells if self._result(cell).exists()}

    def save(self, run: Run) -> None:
        """Saves the result of a cell, published by a rename."""
        cell = run.cell
        write_json(
            self._result(cell),
            {
                "variant": cell.variant,
                "setting": cell.setting,
                "block": cell.block,
                "world_seed": cell.world_seed,
                "training_seed": cell.training_seed,
                "digest": cell.digest,
                "seconds": run.seconds,
                "metrics": finite(run.metrics),
                "fused": {weight: finite(metrics) for weight, metrics in run.fused.items()},
                "history": {name: list(points) for name, points in run.history.items()},
                "config": cell.values,
            },
        )

    def _result(self, cell: Cell) -> Path:
        return self.out / "cells" / f"{cell.name}.json"

    def _load(self, cell: Cell) -> Run:
        path = self._result(cell)
        try:
            values = json.loads(path.read_text())
            digest, config, seconds = values["digest"], values["config"], float(values["seconds"])
            metrics = _numbers(values["metrics"])
            fused = {weight: _numbers(of_weight) for weight, of_weight in values["fused"].items()}
            history = {name: [(int(x), float(y)) for x, y in points] for name, points in values["history"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not the result of a cell ({error!r}): delete it to run the cell again"
            ) from error
        if digest != cell.digest:
            what = "; ".join(differences(config, cell.values)) or "its digest differs"
            raise UserError(
                f"{path} was run with another configuration: {what}. Use another --out, or delete the file to run the "
                "cell again"
            )
        return Run(cell=cell, metrics=metrics, fused=fused, history=history, seconds=seconds)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan" if value is None else value) for name, value in values.items()}


@contextmanager
def opened(out: Path, *, study: str, budget: Budget, resume: bool, shared: bool = False) -> Iterator[Store]:
    """Opens the directory of a study, for only this process or for all that share it.

    Raises:
        UserError: it is not empty and neither `resume` nor `shared` is given, it has another study, or another process
            uses it without sharing.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = _held(out)
        lock = (out / LOCK).open("ab")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error}") from error
    with lock:
        if held and not resume and not shared:
            raise UserError(f"--out {out} is not empty: add --resume to continue its study, or use another --out")
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out}: another process is using it") from error
        except OSError as error:
            raise UserError(f"--out {out}: its file system has no locks ({error.strerror})") from error
        store = Store(out, shared=shared)
        with store.turn("study"):
            wanted = {"study": study, "budget": budget}
            path = out / "study.json"
            # A process that shares the directory may have started in the meantime.
            if _held(out):
                _check_same(path, wanted, out)
            write_json(path, wanted)
        yield store


def _held(out: Path) -> bool:
    """Whether the directory has anything except locks and temporary files."""
    return any(path.name not in (LOCK, LOCKS) and not path.name.endswith(".partial") for path in out.iterdir())


def _check_same(path: Path, wanted: dict[str, str], out: Path) -> None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out} has no study to continue: use another --out") from error
    if found != wanted:
        there = " ".join(str(value) for value in found.values()) if isinstance(found, dict) else found
        raise UserError(f"--out {out} has another study ({there}, not {' '.join(wanted.values())}): use another --out")


def write_json(path: Path, values: Any) -> None:
    """Writes a file atomically and durably, so that it survives a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        file.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """NaN and infinity as None: JSON has neither."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}
