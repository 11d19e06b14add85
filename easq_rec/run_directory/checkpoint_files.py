"""The checkpoints of a run: which of them exist, which one to load, and which ones are kept.

A checkpoint is written under a temporary name and published by one rename. The newest checkpoint is found by the names
of the directories; no pointer file can be torn.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from easq_rec.errors import UserError
from easq_rec.run_directory.checksums import damage
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory, published
from easq_rec.run_directory.progress_file import check_format, read_score


def latest_of(run_dir: Path) -> CheckpointDirectory:
    """The newest undamaged checkpoint of a run. Damaged ones are named on stderr; nothing on disk changes.

    Raises:
        UserError: there is none, or the newest has another format.
    """
    found = published(RunDirectory(run_dir).checkpoints)
    for checkpoint in reversed(found):
        check_format(checkpoint)
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        print(f"easq-rec: checkpoint {checkpoint.path} is skipped: {problem}", file=sys.stderr)
    if found:
        raise UserError(f"{run_dir}: every checkpoint is damaged")
    raise UserError(f"{run_dir} holds no checkpoint: --run names a directory that `easq-rec train` wrote")


def require_checkpoint(run_dir: Path, *, best: bool = False) -> None:
    """Checks in an instant that there is a checkpoint for `checkpoint_of`, which reads and compares all of its files.

    Raises:
        UserError: there is none.
    """
    found = published(RunDirectory(run_dir).checkpoints)
    if best:
        checkpoint_of(run_dir, best=True) if best_of(found) is None else None
    elif not found:
        latest_of(run_dir)


def checkpoint_of(run_dir: Path, *, best: bool = False) -> CheckpointDirectory:
    """The newest undamaged checkpoint of a run, or with `best` the one that `checkpoint.best` has kept.

    Raises:
        UserError: there is none, it is damaged, or it has another format.
    """
    if not best:
        return latest_of(run_dir)
    found = best_of(published(RunDirectory(run_dir).checkpoints))
    if found is None:
        raise UserError(
            f"--best: no checkpoint of {run_dir} has a score; train with --checkpoint.best METRIC and "
            "--evaluation.every-steps N, and the best evaluation's checkpoint is kept"
        )
    check_format(found)
    problem = damage(found)
    if problem is not None:
        raise UserError(f"--best: checkpoint {found.path} is damaged: {problem}")
    return found


def best_of(found: Sequence[CheckpointDirectory]) -> CheckpointDirectory | None:
    """The checkpoint with the highest score, the oldest of equal ones; None if no checkpoint has a score."""
    scores = {checkpoint: score for checkpoint in found if (score := read_score(checkpoint)) is not None}
    return max(scores, key=lambda checkpoint: scores[checkpoint], default=None)


def publish(checkpoint: CheckpointDirectory) -> None:
    """Flushes a checkpoint to the disk and renames it from its partial to its final name."""
    for entry in (*checkpoint.partial.iterdir(), checkpoint.partial):
        _flush(entry)
    os.rename(checkpoint.partial, checkpoint.path)
    _flush(checkpoint.path.parent)


def set_aside(checkpoint: CheckpointDirectory) -> None:
    """Renames a damaged checkpoint. It is never loaded again, and its content is kept."""
    shutil.rmtree(checkpoint.damaged, ignore_errors=True)
    checkpoint.path.rename(checkpoint.damaged)


def prune(checkpoints: Path, keep: int) -> None:
    """Removes all checkpoints except the newest `keep` and the one with the best score."""
    found = published(checkpoints)
    best = best_of(found)
    for checkpoint in found[:-keep]:
        if checkpoint != best:
            shutil.rmtree(checkpoint.path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
