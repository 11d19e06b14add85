"""The files of checkpoints: their names, their checksums, how far the run had come, and which of them are kept.

A checkpoint is a directory ``step_00000100``. It is written under another name and published by one rename, so that the
newest is found by looking at the names. Discs and file systems fail all the same: every file has a checksum, which is
verified before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easq_rec.config.schema import FeatureSchema

if TYPE_CHECKING:
    # It needs torch, without which files can be looked at.
    from easq_rec.data.loader import LoaderState

NAME = re.compile(r"step_(\d{8})")
FORMAT = 4
PLAN, PROGRESS, CHECKSUMS = "plan.pt", "progress.json", "checksums.json"
DAMAGED = ".damaged"
"""What the name of a damaged checkpoint is made to end with: it is kept, and never taken again."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int
    loader: LoaderState
    score: float | None = None
    """Of the evaluation at this step by the metric that `checkpoint.best` names; None: there was none."""


def published(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(entry for entry in directory.iterdir() if NAME.fullmatch(entry.name))


def latest_of(run_dir: Path) -> Path:
    """The newest whole checkpoint of a run directory, which is left as it is; what is passed over is named on stderr.

    Raises:
        ValueError: there is none, or it has a format of another version.
    """
    found = published(run_dir / "checkpoints")
    for path in reversed(found):
        check_format(path)
        problem = damage(path)
        if problem is None:
            return path
        print(f"easq-rec: checkpoint {path} is passed over: {problem}", file=sys.stderr)
    if found:
        raise ValueError(f"{run_dir}: every checkpoint is damaged")
    raise ValueError(f"{run_dir} holds no checkpoint: --run names a directory that `easq-rec train` wrote")


def checkpoint_of(run_dir: Path, *, best: bool = False) -> Path:
    """The newest whole checkpoint of a run directory, or the one that `checkpoint.best` has kept.

    Raises:
        ValueError: there is none, it is damaged, or it has a format of another version.
    """
    if not best:
        return latest_of(run_dir)
    found = best_of(published(run_dir / "checkpoints"))
    if found is None:
        raise ValueError(
            f"--best: no checkpoint of {run_dir} has a score; train with --checkpoint.best METRIC and "
            "--evaluation.every-steps N, and the best evaluation's checkpoint is kept"
        )
    problem = damage(found)
    if problem is not None:
        raise ValueError(f"--best: checkpoint {found} is damaged: {problem}")
    return found


def write_progress(path: Path, progress: Progress, schema: FeatureSchema) -> None:
    """Writes PROGRESS into a checkpoint, with what its tables look like."""
    content = {
        "format": FORMAT,
        "step": progress.step,
        "loader": progress.loader.to_dict(),
        "score": progress.score,
        "tables": tables_of(schema),
    }
    (path / PROGRESS).write_text(json.dumps(content))


def read_progress(path: Path, schema: FeatureSchema | None = None) -> Progress:
    """How far the run had come when a checkpoint was written.

    Raises:
        ValueError: its format is that of another version, or its tables are not those of `schema`.
    """
    from easq_rec.data.loader import LoaderState

    content = check_format(path)
    if schema is not None:
        differences = _differences(content["tables"], tables_of(schema))
        if differences:
            raise ValueError(f"{path} has other tables than the model: {'; '.join(differences)}")
    return Progress(step=content["step"], loader=LoaderState.from_dict(content["loader"]), score=content["score"])


def tables_of(schema: FeatureSchema) -> dict[str, list[int]]:
    """(rows, dim) of every table that may be trained."""
    return {table.name: [table.rows, table.dim] for table in (*schema.tables, *schema.satisfaction_tables)}


def _differences(stored: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> list[str]:
    lines = []
    for name in sorted({*stored, *wanted}):
        one, two = stored.get(name), wanted.get(name)
        if one is None or two is None:
            lines.append(
                f"{name} is {'not there' if one is None else 'there'}, {'not here' if two is None else 'here'}"
            )
        elif list(one) != list(two):
            lines.append(f"{name} has {one[0]} rows of {one[1]} there, {two[0]} of {two[1]} here")
    return lines


def check_format(path: Path) -> dict[str, Any]:
    """Content of PROGRESS; empty where it cannot be read, which its checksum will tell."""
    try:
        content: dict[str, Any] = json.loads((path / PROGRESS).read_text())
        stored = content["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if stored != FORMAT:
        raise ValueError(f"{path}: checkpoint format {stored}, this version reads format {FORMAT}")
    return content


# ---------------------------------------------------------------------------------------------------------------------
# Checksums


def checksums(path: Path, *, rank: int) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files of a checkpoint that this rank has written; rank 0 wrote what bears no number."""
    mine = re.compile(rf"(__{rank}_\d+\.distcp|rng_{rank}\.pt)")
    others = re.compile(r"(__\d+_\d+\.distcp|rng_\d+\.pt)")
    found = {}
    for file in sorted(path.iterdir()):
        if mine.fullmatch(file.name) or (rank == 0 and not others.fullmatch(file.name)):
            found[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    return found


def write_checksums(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    (path / CHECKSUMS).write_text(json.dumps({"files": found}, indent=1) + "\n")


def damage(path: Path, *, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with a checkpoint; None: nothing.

    Args:
        share: which part of the files to read, of `shares`: the ranks divide them.
    """
    try:
        files = json.loads((path / CHECKSUMS).read_text())["files"]
        expected = [(name, int(files[name]["bytes"]), str(files[name]["sha256"])) for name in sorted(files)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUMS} is missing or torn"
    for name, size, digest in expected[share::shares]:
        try:
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size:,} bytes, not {size:,}"
            if _sha256(path / name) != digest:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name}: {error.strerror or error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# The directory


def set_aside(path: Path) -> Path:
    """Renames a damaged checkpoint so that it is never taken, and nothing of it is lost."""
    aside = path.with_name(path.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside


def publish(partial: Path, final: Path) -> None:
    """Flushes a checkpoint to the disk and gives it its name."""
    for entry in (*partial.iterdir(), partial):
        _sync(entry)
    os.rename(partial, final)
    _sync(final.parent)


def prune(directory: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and the one with the best score."""
    found = published(directory)
    best = best_of(found)
    for path in found[:-keep]:
        if path != best:
            shutil.rmtree(path)


def best_of(found: Sequence[Path]) -> Path | None:
    """The checkpoint with the highest score, the oldest of equal ones; None: no one has a score."""
    scores = {path: score for path in found if (score := check_format(path).get("score")) is not None}
    return max(scores, key=lambda path: scores[path], default=None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
