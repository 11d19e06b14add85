"""Finished cells of an earlier result: a published study gets another method without all its trainings again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easq_rec.errors import UserError
from easq_rec.tools.studies.grid import BY_USER, Cell
from easq_rec.tools.studies.store import Run, Store, numbers, write_json

KNOWN = "known.json"
CIRCUMSTANCES = ("command", "versions", "hardware")


def take_over(path: Path, store: Store, cells: Sequence[Cell], *, study: str, versions: Mapping[str, str]) -> int:
    """Saves the results of cells that an earlier study has run; returns their number.

    A cell is the same if its config, its program and its arguments are. The code of the package may have changed since:
    only the user knows whether that matters. Where the cells come from is noted in the store.

    Args:
        path: results.json of the earlier study.
        versions: those of this process.

    Raises:
        UserError: the file is not a result of this study, or packages have other versions.
    """
    try:
        earlier = json.loads(path.read_text())
        there, found = earlier["study"], {cell["digest"]: cell for cell in earlier["cells"]}
        origin = {name: earlier[name] for name in CIRCUMSTANCES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--known {path}: not the results.json of a study: {error!r}") from error
    if there != study:
        raise UserError(f"--known {path}: it has study {there}, not {study}")
    if other := [
        f"{name} {old}, here {versions.get(name)}"
        for name, old in origin["versions"].items()
        if versions.get(name) != old
    ]:
        raise UserError(
            f"--known {path}: it was measured with other versions ({'; '.join(other)}): its cells cannot be compared "
            "with new ones"
        )
    finished = store.finished(cells)
    taken = [cell for cell in cells if cell.digest in found and cell.name not in finished and _complete(path, cell)]
    for cell in taken:
        if BY_USER in cell.arguments:
            store.users(cell).parent.mkdir(exist_ok=True)
            shutil.copyfile(users_beside(path, cell), store.users(cell))
        store.save(_run(cell, found[cell.digest]))
    if taken:
        write_json(store.out / KNOWN, {**origin, "cells": [cell.name for cell in taken]})
    return len(taken)


def users_beside(path: Path, cell: Cell) -> Path:
    """Where a study with this results.json keeps what every held-out user adds to the metrics of a cell."""
    return Store(path.parent).users(cell)


def _complete(path: Path, cell: Cell) -> bool:
    """Whether the earlier study has all that a cell needs: the sums of users are not in results.json."""
    return BY_USER not in cell.arguments or users_beside(path, cell).exists()


def taken_over(store: Store) -> dict[str, Any] | None:
    """Where taken cells come from, as JSON values: their number, and the circumstances of their measurement; None if
    the study has run all its cells."""
    path = store.out / KNOWN
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    return {**values, "cells": len(values["cells"])}


def _run(cell: Cell, values: Mapping[str, Any]) -> Run:
    return Run(
        cell=cell,
        metrics=numbers(values["metrics"]),
        fused={served: numbers(metrics) for served, metrics in values["fused"].items()},
        history={name: [(int(x), float(y)) for x, y in points] for name, points in values.get("history", {}).items()},
        seconds=float(values["seconds"]),
    )
