"""The files of a study, which can be killed at any time and continued.

OUT/study.json          name and budget of the study
OUT/cells/CELL.json     the result of a finished cell; written atomically
OUT/users/CELL.npz      what every held-out user adds to its metrics, if the study needs that
OUT/logs/               terminal output of every cell
OUT/worlds/             generated worlds
OUT/runs/CELL/          ID.json, ID/: config and run directory of the last try
OUT/.lock               locked by the only process that writes the study, and names it
OUT/results.json, table.md, *.png

The system releases the lock when its process ends for any reason. Workers of a Ray cluster write logs, worlds and
runs on behalf of that process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.config import World
from easq_rec.errors import UserError
from easq_rec.tools.simulation.world import ensure
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.grid import BY_USER, Cell, differences, digest_of
from easq_rec.tools.studies.user_metrics import POLICY

LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished cell."""

    cell: Cell
    metrics: dict[str, float]
    """Metrics of the final evaluation by name; NaN if undefined."""
    fused: Mapping[str, dict[str, float]] = field(default_factory=dict)
    """The same metrics for other served scores, by the weight of the reference score or the text of an `Addition`."""
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    """(step, value) pairs of the metrics that the cell stores, in order."""
    seconds: float
    """Wall time, from the start of its process to its end."""
    served: str = POLICY
    """The score that `metrics` evaluate."""
    user_metrics: Path | None = None
    """What every held-out user adds to the metrics of all served scores; None: the cell does not keep that."""


class Store:
    """The directory of a study.

    Args:
        writer: the process that writes it, as its lock file names it; empty in a worker of that process.
    """

    def __init__(self, out: Path, *, writer: str = "") -> None:
        self.out = out
        self.writer = writer
        self._locks: dict[str, threading.Lock] = {}

    def log(self, cell: Cell) -> Path:
        return self.out / "logs" / f"{cell.name}.log"

    def users(self, cell: Cell) -> Path:
        return self.out / "users" / f"{cell.name}.npz"

    def new_run_dir(self, cell: Cell) -> Path:
        """Path of a new run directory, in an existing directory that has nothing of earlier tries.

        A process of an earlier try may live for a moment after its study or its worker was killed. It has another path,
        so it cannot disturb this try.
        """
        runs = self.out / "runs" / cell.name
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir(parents=True, exist_ok=True)
        return runs / uuid.uuid4().hex[:8]

    def world(self, world: World) -> Path:
        """Directory of a world, which is generated at the first request; threads wait for each other."""
        directory = self.out / "worlds" / f"world-{digest_of(world.identity)}"
        with self._locks.setdefault(directory.name, threading.Lock()):
            # Removes files of a killed process: nobody else writes this world.
            for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            ensure(world, directory)
        return directory

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
            metrics = numbers(values["metrics"])
            fused = {weight: numbers(of_weight) for weight, of_weight in values["fused"].items()}
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
        users = self.users(cell) if BY_USER in cell.arguments else None
        return Run(cell=cell, metrics=metrics, fused=fused, history=history, seconds=seconds, user_metrics=users)


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics from JSON: null is NaN."""
    return {name: float("nan" if value is None else value) for name, value in values.items()}


@contextmanager
def opened(out: Path, *, study: str, budget: Budget, resume: bool) -> Iterator[Store]:
    """Opens the directory of a study for only this process.

    Raises:
        UserError: it is not empty and `resume` is not given, it has another study, or another process writes it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = _held(out)
        lock = (out / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error}") from error
    with lock:
        if held and not resume:
            raise UserError(f"--out {out} is not empty: add --resume to continue its study, or use another --out")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out}: {_writer(out)} writes this study: wait until it ends") from error
        except OSError as error:
            raise UserError(f"--out {out}: its file system has no locks ({error.strerror})") from error
        # The last word differs between two processes with the same number on hosts of the same name.
        writer = f"process {os.getpid()} on {socket.gethostname()} {uuid.uuid4().hex}\n"
        lock.truncate(0)
        lock.write(writer)
        lock.flush()
        os.fsync(lock.fileno())
        wanted = {"study": study, "budget": budget}
        path = out / "study.json"
        # Another process may have written and ended in the meantime.
        if _held(out):
            _check_same(path, wanted, out)
        write_json(path, wanted)
        yield Store(out, writer=writer)


def _writer(out: Path) -> str:
    """The process that holds the lock, such as `process 12 on node7`."""
    return (out / LOCK).read_text().strip().rpartition(" ")[0] or "another process"


def _held(out: Path) -> bool:
    """Whether the directory has anything except hidden files, such as its lock, and temporary files."""
    return any(not path.name.startswith(".") and not path.name.endswith(".partial") for path in out.iterdir())


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
        file.write(json_file.text(values, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """NaN and infinity as None: JSON has neither."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}
