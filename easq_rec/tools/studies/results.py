"""The results of a study's cells as they arrive: saves and prints each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from easq_rec.tools.studies.execution import CellFailed
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.store import Run, Store

SHOWN = {"satisfaction": "satisfaction_ndcg5", "engagement": "engagement_ndcg5"}


class Results:
    """Starts with the results that the store has.

    Raises:
        UserError: a cell was run before with another config.
    """

    def __init__(self, store: Store, cells: Sequence[Cell]) -> None:
        self._store = store
        self._cells = cells
        self._found = store.finished(cells)
        self._failed: list[str] = []
        if self._found:
            print(f"{len(self._found)} of {len(cells)} cells are already finished", flush=True)

    @property
    def missing(self) -> list[Cell]:
        """The cells without a result, in order."""
        return [cell for cell in self._cells if cell.name not in self._found and cell.name not in self._failed]

    def add(self, cell: Cell, result: Run | CellFailed) -> None:
        """Saves the result of a cell, or notes its failure, and prints it."""
        if isinstance(result, CellFailed):
            self._failed.append(cell.name)
            said = str(result)
        else:
            self._store.save(result)
            self._found[cell.name] = result
            said = f"{_shown(result.metrics)} ({result.seconds:.0f} s)"
        done = len(self._found) + len(self._failed)
        print(f"{done}/{len(self._cells)} {cell.label} {cell.block}: {said}", flush=True)

    def ordered(self) -> tuple[list[Run], list[str]]:
        """The results, in the order of the cells, and the names of the cells that failed."""
        return [self._found[cell.name] for cell in self._cells if cell.name in self._found], self._failed


def _shown(metrics: dict[str, float]) -> str:
    """`satisfaction .5310 engagement .6140`."""
    values = {name: metrics.get(key, math.nan) for name, key in SHOWN.items()}
    return " ".join(f"{name} {f'{value:.4f}'.removeprefix('0')}" for name, value in values.items())
