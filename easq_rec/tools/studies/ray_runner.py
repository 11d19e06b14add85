"""Runs the cells of a study as tasks of a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from easq_rec.data import files
from easq_rec.errors import UserError
from easq_rec.tools.studies import ray_tasks
from easq_rec.tools.studies.execution import CellFailed, CellKilled
from easq_rec.tools.studies.grid import Cell, digest_of
from easq_rec.tools.studies.results import Results
from easq_rec.tools.studies.store import Run, Store

RETRIES = 3
"""How often Ray runs a cell again whose worker died."""
CONNECT_S = 10.0
"""Time limit for the first connection to the cluster. Ray itself tries for minutes."""
OBJECT_STORE_BYTES = 100_000_000
"""Memory of the objects of a cluster on this machine. Results of cells are small."""
REMEDY = "start one with `ray start --head`, or use --ray local"


class RayRunner:
    """Runs cells as Ray tasks, each with the CPUs of its config.

    Args:
        address: `local` starts a cluster on this machine for the time of the study. Ray reads every other value:
            `auto`, HOST:PORT, ray://HOST:PORT.
        jobs: CPUs of the cluster that `local` starts.
        gpus: GPUs of every cell; a fraction lets cells share one.
        program: command of every cell, as of `Execution`.
    """

    def __init__(
        self, store: Store, *, address: str, jobs: int, gpus: float = 0, program: Sequence[str] | None = None
    ) -> None:
        self._store = store
        self._address = address
        self._jobs = jobs
        self._gpus = gpus
        self._program = program

    def run(self, cells: Sequence[Cell]) -> tuple[list[Run], list[str]]:
        """Runs the cells that have no result yet, and saves each result when it is ready.

        Ray runs a cell again if its worker or its process died, at most `RETRIES` times. A cell that fails otherwise
        would fail again, so it is not repeated.

        Returns:
            the results, in the order of the cells, and the names of those that failed.

        Raises:
            UserError: a cell was run before with another config, no cluster has this address, or a node does not see
                the directory of the study.
        """
        results = Results(self._store, cells)
        if results.missing:
            with _connected(self._address, self._jobs) as ray:
                self._run(ray, results)
        return results.ordered()

    def _run(self, ray: Any, results: Results) -> None:
        waiting = self._submit(ray, results.missing)
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            results.add(waiting.pop(done), _result(ray, done))

    def _submit(self, ray: Any, cells: Sequence[Cell]) -> dict[Any, Cell]:
        """The cells by the references of their tasks. Cells of one world wait for the task that generates it."""
        out, writer = str(self._store.out.absolute()), self._store.writer
        make_world = ray.remote(num_cpus=1, max_retries=RETRIES)(ray_tasks.make_world)
        run_cell = ray.remote(
            max_retries=RETRIES,
            retry_exceptions=[CellKilled],
            # By default Ray fills one node to a half before it uses the next one.
            scheduling_strategy="SPREAD",
        )(ray_tasks.run_cell)
        worlds: dict[str, Any] = {}
        tasks = {}
        for cell in cells:
            data, world = cell.config.data.path, cell.config.world
            if data is None:
                name = digest_of(world.identity)
                if name not in worlds:
                    worlds[name] = make_world.remote(out, writer, world)
                source = worlds[name]
            else:
                # Workers have another working directory.
                source = data if files.is_remote(data) else str(Path(data).absolute())
            task = run_cell.options(name=cell.name, num_cpus=cell.cpus, num_gpus=self._gpus)
            tasks[task.remote(out, writer, cell, source, self._gpus, self._program)] = cell
        return tasks


def _result(ray: Any, done: Any) -> Run | CellFailed:
    """The result of a finished task. Raises UserError if a node does not see the directory of the study."""
    try:
        result: Run | CellFailed = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        match error.cause:
            case CellKilled() as killed:
                return CellFailed(f"in each of {RETRIES + 1} tries it {killed}")
            case UserError() as wrong:
                raise wrong from error
            case OSError() as failure:
                return CellFailed(f"failed: {failure}")
        raise
    except ray.exceptions.RayError as error:
        return CellFailed(f"failed: Ray gave it up after {RETRIES} retries: {str(error).splitlines()[0]}")
    return result


@contextmanager
def _connected(address: str, cpus: int) -> Iterator[Any]:
    """Ray's module, connected to the cluster. At the end Ray stops the tasks that still run."""
    import ray

    if address == "local":
        # A study on this machine reports nothing to Ray's authors.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        how = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    else:
        how = {}
    try:
        ray.init(address=address, **how)
    except (ConnectionError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"--ray {address}: no cluster ({reason}): {REMEDY}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def require_cluster(address: str) -> None:
    """Checks what can be checked before a connection: Ray is installed, and somebody listens at the address.

    Raises:
        UserError: one of these is false, or the address has no known form.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--ray {address} needs the package ray: pip install 'easq-rec[cluster]'")
    if address == "auto":
        # Ray connects to this one without a look whether it exists.
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address in ("local", "auto"):
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise UserError(f"--ray {address} is not allowed: local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(f"--ray {address}: no cluster answers ({error}): {REMEDY}") from error
