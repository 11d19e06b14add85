"""progress.json of a checkpoint: the step, the position in the data, and the tables of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from easq_rec import json_file
from easq_rec.config.schema import FeatureSchema
from easq_rec.errors import UserError
from easq_rec.run_directory.paths import CheckpointDirectory

if TYPE_CHECKING:
    # It imports torch, which this package does without.
    from easq_rec.data.loader import LoaderState
    from easq_rec.data.stream.state import FollowState

FORMAT = 5
"""Format of a whole checkpoint. It changes with every change to any of its files."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int
    loader: LoaderState | FollowState
    """How far the data are read: of a fixed log, or of streams."""
    score: float | None = None
    """The metric that `checkpoint.best` names, evaluated at this step; None: there was no evaluation."""
    hours: Mapping[str, Any] | None = None
    """Sums of the metrics of hours that have not ended; None for a fixed log."""


def write_progress(checkpoint: CheckpointDirectory, progress: Progress, schema: FeatureSchema) -> None:
    """Writes the progress together with the shapes of the tables, and the arrays of streams."""
    from easq_rec.data.stream.state import FollowState

    if isinstance(progress.loader, FollowState):
        with checkpoint.stream.open("wb") as file:
            named: dict[str, Any] = progress.loader.arrays()
            np.savez_compressed(file, **named)
    content = {
        "format": FORMAT,
        "step": progress.step,
        "loader": progress.loader.to_dict(),
        "score": progress.score,
        "hours": progress.hours,
        "tables": tables_of(schema),
    }
    checkpoint.progress.write_text(json_file.text(content))


def read_progress(checkpoint: CheckpointDirectory, schema: FeatureSchema | None = None) -> Progress:
    """How far the run had come when a checkpoint was written.

    Raises:
        UserError: the checkpoint has another format, its file is damaged, or its tables are not those of `schema`.
    """
    from easq_rec.data.loader import LoaderState
    from easq_rec.data.stream.state import FollowState

    check_format(checkpoint)
    content = _content(checkpoint)
    if content is None:
        raise UserError(f"{checkpoint.progress} is missing or damaged; resume from an older checkpoint")
    if schema is not None:
        _check_tables(checkpoint, content, schema)
    loader: LoaderState | FollowState
    if checkpoint.stream.exists():
        with np.load(checkpoint.stream, allow_pickle=False) as arrays:
            loader = FollowState.of(content["loader"], dict(arrays))
    else:
        loader = LoaderState.from_dict(content["loader"])
    return Progress(step=content["step"], loader=loader, score=content["score"], hours=content.get("hours"))


def check_tables(checkpoint: CheckpointDirectory, schema: FeatureSchema) -> None:
    """Raises UserError that names every difference: the tables of a checkpoint are not those of `schema`."""
    content = _content(checkpoint)
    if content is not None:
        _check_tables(checkpoint, content, schema)


def _check_tables(checkpoint: CheckpointDirectory, content: dict[str, Any], schema: FeatureSchema) -> None:
    differences = _differences(content["tables"], tables_of(schema))
    if differences:
        raise UserError(f"{checkpoint.path} has other tables than the model: {'; '.join(differences)}")


def read_score(checkpoint: CheckpointDirectory) -> float | None:
    """The score of a checkpoint; None: it has none, or its progress cannot be read."""
    content = _content(checkpoint)
    return content.get("score") if content is not None else None


def check_format(checkpoint: CheckpointDirectory) -> None:
    """
    Raises:
        UserError: the checkpoint has another format. A file that cannot be read passes: its checksum will not match.
    """
    content = _content(checkpoint)
    if content is not None and content["format"] != FORMAT:
        raise UserError(
            f"{checkpoint.path}: checkpoint format {content['format']}, this version reads format {FORMAT}; use the "
            "version of easq-rec that wrote it, or start a new --run-dir"
        )


def _content(checkpoint: CheckpointDirectory) -> dict[str, Any] | None:
    """What the file holds; None where it is missing or damaged."""
    try:
        content = json.loads(checkpoint.progress.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "format" in content else None


def tables_of(schema: FeatureSchema) -> dict[str, list[int]]:
    """[rows, dim] of every table that may be trained, and `admit_after` of those that are admitted."""
    return {
        table.name: [table.rows, table.dim, *([table.admit_after] if table.id_space == "admitted" else [])]
        for table in (*schema.tables, *schema.satisfaction_tables)
    }


def _differences(stored: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> list[str]:
    lines = []
    for name in sorted({*stored, *wanted}):
        if name not in wanted:
            lines.append(f"{name} is only in the checkpoint")
        elif name not in stored:
            lines.append(f"{name} is only in the model")
        elif list(stored[name]) != list(wanted[name]):
            lines.append(f"{name} has {_shown(stored[name])} in the checkpoint, {_shown(wanted[name])} in the model")
    return lines


def _shown(table: Sequence[int]) -> str:
    """An entry of `tables_of` in words."""
    rows, dim, *admitted = table
    return f"{rows} x {dim} values" + "".join(f", for ids admitted after {after}," for after in admitted)
