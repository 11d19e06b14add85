"""Where the table of an evaluation lies. Loads without torch."""

from __future__ import annotations

from pathlib import Path

from easq_rec.errors import UserError

NAME = "evaluation"
"""Name of the files in a run directory, without suffix, unless the user chose another."""


def evaluation_file(source: Path) -> Path:
    """The Parquet file of an evaluation.

    Args:
        source: a run directory or the file.

    Raises:
        UserError: there is none.
    """
    file = source if source.suffix == ".parquet" else source / f"{NAME}.parquet"
    if not file.is_file():
        run = source if file != source else "RUN"
        raise UserError(f"{source}: no {file.name}: run `easq-rec evaluate --run {run}` first")
    return file
