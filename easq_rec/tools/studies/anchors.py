"""Rows that no training gives: a random order, and orders by the truth. They show how much there is to gain.

They are cells, so that a study resumes them, runs them on Ray and stores them like all others.
"""

from __future__ import annotations

from collections.abc import Iterable

from easq_rec.data import files
from easq_rec.data.dataset import first_schema
from easq_rec.data.layout import leaf_types
from easq_rec.tools.studies.grid import BASE, ENGAGING, RANDOM, SATISFYING, Cell

PROGRAM = "easq_rec.tools.studies.anchor_cell"
WORLD, DATA = "world", "data"
"""Where the truth is: the generator of a world, or a column of a data set."""


def anchor_cells(cells: Iterable[Cell]) -> list[Cell]:
    """The anchors of each world of a study, or of each training seed on a data set, with the setting of the first cell
    of `main_only` on it. Worlds that differ only in their answers have the same anchors.

    A world has all anchors. A data set has `random`, and `SATISFYING` if its candidates have graded truth.

    Raises:
        UserError: the data set cannot be read.
    """
    found: dict[str, list[Cell]] = {}
    for base in cells:
        if base.variant != BASE or base.pair in found:
            continue
        of_world = base.config.data.path is None
        found[base.pair] = [
            Cell(
                variant=name,
                setting=base.setting,
                config=base.config,
                program=PROGRAM,
                arguments=(name, WORLD if of_world else DATA),
            )
            for name in (_all() if of_world else _of_data(base))
        ]
    return [cell for several in found.values() for cell in several]


def _all() -> list[str]:
    return [RANDOM, SATISFYING, ENGAGING]


def _of_data(base: Cell) -> list[str]:
    schema = first_schema(files.join(str(base.config.data.path), "requests"))
    graded = f"candidates.{base.config.evaluation.satisfaction}" in {path for path, _ in leaf_types(schema)}
    return [RANDOM, *([SATISFYING] if graded else [])]
