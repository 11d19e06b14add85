"""The page around the parts: one file that needs no other file, script or host, and forbids the browser to load any."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import jinja2

from easq_rec import __version__
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.figures.style import DARK, LIGHT
from easq_rec.tools.report.parts import breakable
from easq_rec.tools.report.runs import RunsView, runs_view
from easq_rec.tools.report.sources import Source
from easq_rec.tools.report.study_files import StudyFiles
from easq_rec.tools.report.study_view import study_view

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(sources: Sequence[Source], written: datetime) -> str:
    """The whole page: runs first, side by side, then the studies.

    Args:
        sources: at least one.
        written: the time that the page names.
    """
    runs = [source for source in sources if isinstance(source, RunFiles)]
    studies = [study_view(source) for source in sources if isinstance(source, StudyFiles)]
    view: RunsView | None = runs_view(runs) if runs else None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("easq_rec.tools.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html.jinja").render(
        title=", ".join([*(run.name for run in runs), *(f"study {study.files.study}" for study in studies)]),
        written=f"{written:%Y-%m-%d %H:%M %Z}",
        version=__version__,
        policy=POLICY,
        light=LIGHT,
        dark=DARK,
        runs=view,
        studies=studies,
    )
