"""`easq-rec report RUN_OR_STUDY...`: reads the directories and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from easq_rec import outputs
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.tools.report.page import page
from easq_rec.tools.report.sources import read_sources


def report(directories: Sequence[Path], out: Path | None) -> Path:
    """Writes the page and returns its path.

    Args:
        directories: of runs and studies, at least one.
        out: the HTML file. None: report.html in the first directory.

    Raises:
        UserError: a directory or file is missing or damaged, or the page cannot be written.
    """
    file = RunDirectory(directories[0]).report if out is None else out
    if out is not None or file.parent.is_dir():
        outputs.check_file("--out", file)
    sources = read_sources(directories)
    # JSON may contain halves of surrogate pairs, which cannot be encoded.
    content = page(sources, datetime.now(UTC)).encode("utf-8", "replace")
    partial = file.with_name(f".{file.name}.partial")
    with outputs.writing("--out", file):
        partial.write_bytes(content)
        partial.rename(file)
    return file
