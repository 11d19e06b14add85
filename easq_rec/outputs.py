"""Checks of output paths before a command starts to work, and errors of writing as one readable line.

Uses the standard library only, so that every module may import it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from easq_rec.errors import UserError


def check_file(option: str, path: Path) -> None:
    """Checks that a file can be written at a path, whose folder is created. A device is written to as it is.

    Raises UserError that begins with the option.
    """
    if path.is_dir():
        raise UserError(f"{option} {path}: is a directory: name a file to write")
    if path.exists() and not path.is_file():
        return
    if os.path.ismount(path):
        raise UserError(f"{option} {path}: is a mount point, which cannot be replaced: name a file beside it")
    _check_writable(option, path, path.parent)


def check_folder(option: str, path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Checks that files can be written into a folder, which is created.

    Args:
        inputs: folders that the output must not lie in.

    Raises:
        UserError: that begins with the option.
    """
    check_outside(option, path, inputs)
    _check_writable(option, path, path)


def check_new_directory(option: str, path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Checks that a directory can appear at a path by a rename. What it holds already is not looked at.

    Args:
        inputs: folders that the output must not lie in.

    Raises:
        UserError: that begins with the option.
    """
    check_outside(option, path, inputs)
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{option} {path}: is no directory: delete it or choose another name")
    if os.path.ismount(path):
        remedy = f"name a directory in it, as {option} {path}/out"
        raise UserError(f"{option} {path}: is a mount point, which cannot be replaced: {remedy}")
    _check_writable(option, path, Path(os.path.realpath(path)).parent)


def check_outside(option: str, path: Path, inputs: Iterable[Path]) -> None:
    """Raises UserError if an output lies in a folder that is read: the next reader would take it for data."""
    real = os.path.realpath(path)
    for folder in inputs:
        inside = os.path.realpath(folder)
        if real == inside or real.startswith(inside.rstrip("/") + "/"):
            raise UserError(f"{option} {path}: lies in {folder}, which is read: choose a place outside of it")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Errors of the system within the block, such as a full disk, as UserError that begins with the option."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written: {_reason(error)}") from error


def _check_writable(option: str, path: Path, folder: Path) -> None:
    """Creates a folder, and tries to write a file in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    place = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"{place}{error.strerror or error}"
