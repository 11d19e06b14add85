"""Runs the cells of a study in parallel processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from easq_rec.tools.studies.execution import CellFailed, Execution
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.results import Results
from easq_rec.tools.studies.store import Run, Store


class Runner:
    """Runs cells, one process each.

    Args:
        jobs: number of cells that run at the same time.
        program: command of every cell, as of `Execution`.
    """

    def __init__(self, store: Store, *, jobs: int, program: Sequence[str] | None = None) -> None:
        self._store = store
        self._jobs = jobs
        self._program = program

    def run(self, cells: Sequence[Cell]) -> tuple[list[Run], list[str]]:
        """Runs the cells that have no result yet, and saves each result when it is ready.

        Returns:
            the results, in the order of the cells, and the names of those that failed.

        Raises:
            UserError: a cell was run before with another config.
        """
        results = Results(self._store, cells)
        execution = Execution(self._store, program=self._program)
        with ThreadPoolExecutor(self._jobs) as pool:
            futures = {pool.submit(self._run, execution, cell): cell for cell in results.missing}
            try:
                for future in as_completed(futures):
                    results.add(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                execution.stop()
                raise
        return results.ordered()

    def _run(self, execution: Execution, cell: Cell) -> Run | CellFailed:
        config = cell.config
        try:
            # A world is generated for its first cell.
            return execution.run(cell, config.data.path or str(self._store.world(config.world).absolute()))
        except CellFailed as failure:
            return failure
        except OSError as error:
            return CellFailed(f"failed: {error}")
