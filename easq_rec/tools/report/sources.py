"""The directories that a report is about: runs of `easq-rec train`, and studies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easq_rec.errors import UserError
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.run_directory.run_files import RunFiles, read_run
from easq_rec.tools.report.study_files import StudyFiles, read_study

Source = RunFiles | StudyFiles


def read_sources(directories: Sequence[Path]) -> list[Source]:
    """The runs and studies in the directories, in their order. Each is named by the end of its path that is unique.

    Raises:
        UserError: one is missing, is neither a run nor a study, is given twice, or holds a damaged file.
    """
    for directory in directories:
        if not directory.is_dir():
            raise UserError(
                f"{directory}: no such directory; name a run that `easq-rec train` wrote, or the --out of a study"
            )
    resolved = [directory.resolve() for directory in directories]
    for index, directory in enumerate(resolved):
        if directory in resolved[:index]:
            raise UserError(f"{directories[index]}: given twice; name each run or study once")
    names = distinct_names(resolved)
    return [_read(directory, name) for directory, name in zip(directories, names, strict=True)]


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as make all names distinct."""
    most = max(len(directory.parts) for directory in directories)
    for depth in range(1, most + 1):
        names = ["/".join(directory.parts[-depth:]) for directory in directories]
        if len(set(names)) == len(names):
            return names
    return [str(directory) for directory in directories]


def _read(directory: Path, name: str) -> Source:
    results, config = directory / "results.json", RunDirectory(directory).config
    if results.is_file():
        return read_study(directory, name, read_json(results))
    if config.is_file():
        return read_run(directory, name, read_json(config))
    if (directory / "study.json").is_file():
        raise UserError(
            f"{directory}: its study is not finished (no results.json); run the command that started it with --resume"
        )
    raise UserError(
        f"{directory}: neither a run (config.json, metrics.jsonl) nor a study (results.json); name a directory that "
        "`easq-rec train` or `easq-rec study` wrote"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where the file cannot be read or contains something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); restore it, or omit its directory") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: contains no JSON object; restore it, or omit its directory")
    return content
