"""`easq-rec report RUN_OR_STUDY...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write one self-contained HTML page about runs and studies: what ran, metrics with intervals, curves, plots.

    It needs no network and no other file. Of several runs the others are compared with the first; differences have
    intervals where both were evaluated (easq-rec evaluate)."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories (easq-rec train) and directories of studies (easq-rec study), in any order."""
    out: Path | None = None
    """HTML file to write. None: report.html in the first directory."""

    def run(self) -> int:
        from easq_rec.tools.report.command import report

        if not self.directories:
            raise UserError("report: name at least one directory of a run or a study (--help says more)")
        print(f"report in {report(self.directories, self.out)}")
        return 0
