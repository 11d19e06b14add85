"""The tasks of a study on Ray. Workers import this module, so it loads without Ray's API.

Every task first reads the lock file of the study. A worker that does not find it with the content that the study wrote
is on a node with other storage: it could neither read the worlds nor write its run.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from easq_rec.config import World
from easq_rec.errors import UserError
from easq_rec.tools.studies.execution import CellFailed, CellKilled, Execution
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.store import LOCK, Run, Store


def make_world(out: str, writer: str, world: World) -> str:
    """Generates a world in the directory of a study; returns its path.

    Args:
        writer: content of the lock file.

    Raises:
        UserError: this node does not see the directory.
        OSError: the world cannot be written.
    """
    _require_visible(out, writer)
    return str(Store(Path(out)).world(world))


def run_cell(
    out: str, writer: str, cell: Cell, data: str, gpus: float, program: Sequence[str] | None = None
) -> Run | CellFailed:
    """Runs a cell on the data at this path or URL; returns its result, or how it failed.

    Args:
        writer: content of the lock file.
        gpus: GPUs that Ray reserves for the cell; 0: it does not see any.
        program: command of every cell, as of `Execution`.

    Raises:
        UserError: this node does not see the directory of the study.
        CellKilled: a signal ended the process of the cell. Ray then runs the task again.
    """
    _require_visible(out, writer)
    # Without this, a cell would train on a GPU that Ray has given to another task.
    hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    try:
        return Execution(Store(Path(out)), program=program, environment=hidden).run(cell, data)
    except CellKilled:
        raise
    except CellFailed as failure:
        return failure


def _require_visible(out: str, writer: str) -> None:
    try:
        found = (Path(out) / LOCK).read_text()
    except OSError:
        found = ""
    if found != writer:
        raise UserError(
            f"--out {out}: node {socket.gethostname()} of the Ray cluster does not see this directory: choose one on "
            "storage that all nodes share"
        )
