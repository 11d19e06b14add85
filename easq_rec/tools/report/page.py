"""The page around the parts: head, title, contents. It asks nothing of any other file or host, and its policy has the
browser refuse to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from easq_rec import __version__
from easq_rec.run_directory.run_files import RunFiles
from easq_rec.tools.report.markup import Markup, join, tag
from easq_rec.tools.report.run_sections import runs_section
from easq_rec.tools.report.sources import Source
from easq_rec.tools.report.study_files import StudyFiles
from easq_rec.tools.report.study_sections import study_section
from easq_rec.tools.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(sources: Sequence[Source], written: datetime) -> str:
    """The whole page: runs first, side by side, then the studies.

    Args:
        sources: at least one.
        written: the time that the page names.
    """
    runs = [source for source in sources if isinstance(source, RunFiles)]
    studies = [source for source in sources if isinstance(source, StudyFiles)]
    parts: list[tuple[str, str, Markup]] = []
    if runs:
        parts.append(("runs", "Run" if len(runs) == 1 else f"{len(runs)} runs", runs_section(runs)))
    for index, study in enumerate(studies):
        anchor = f"study-{index}"
        named = study.study if study.name == study.study else f"{study.study} ({study.name})"
        parts.append((anchor, f"Study {named}", study_section(study, anchor)))
    title = ", ".join([*(run.name for run in runs), *(f"study {study.study}" for study in studies)])
    return "<!DOCTYPE html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{title} · easq-rec"),
            tag("style", Markup(STYLE)),
        ),
        tag(
            "body",
            tag(
                "header",
                tag("h1", "easq-rec report"),
                tag("p", f"{title}. Written {written:%Y-%m-%d %H:%M %Z} by easq-rec {__version__}."),
                _contents(parts),
            ),
            tag("main", *(part for _, _, part in parts)),
        ),
        lang="en",
    )


def _contents(parts: Sequence[tuple[str, str, Markup]]) -> Markup | None:
    """Links to the parts, where there is more than one."""
    if len(parts) < 2:
        return None
    links = join(*(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in parts))
    return tag("nav", tag("ul", links), aria_label="Contents")
