"""What a page is made of: tables, plots and groups of plots. The templates turn them into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.run_directory.formatting import NONE, estimate

Legend = Sequence[tuple[Markup, str]]
"""(sample, name) of each series."""


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table."""

    caption: str
    """Its accessible name."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As many cells each as there are headings; the first names the row."""
    numeric_from: int = 1
    """Columns from this one on are numbers, aligned right."""


@dataclass(frozen=True, kw_only=True)
class PagePlot:
    """A figure with its legend and its numbers."""

    title: str
    pictures: Sequence[Markup]
    """One SVG, or one for wide pages and one for narrow ones."""
    legend: Legend = ()
    remark: str = ""
    summary: str = ""
    """Label of the folded table."""
    table: PageTable | None = None
    """None: another table of the page holds the numbers."""


@dataclass(frozen=True, kw_only=True)
class PlotGroup:
    """Plots side by side, some of them folded."""

    title: str
    remarks: Sequence[str] = ()
    legend: Legend = ()
    plots: Sequence[PagePlot] = ()
    more: Sequence[PagePlot] = ()
    more_title: str = ""


def strong(text: str) -> Markup:
    """Text in bold."""
    return Markup("<b>{}</b>").format(text)


def code(text: str) -> Markup:
    """A name from a file."""
    return Markup("<code>{}</code>").format(breakable(text))


def breakable(text: str) -> Markup:
    """A name whose line may break after an underscore."""
    return text if isinstance(text, Markup) else Markup(str(escape(text)).replace("_", "_<wbr>"))


def change(found: Estimate | None, unit: str = "%") -> str:
    """A change, in percent by default, in bold where its interval excludes 0."""
    if found is None:
        return NONE
    text = estimate(found, unit)
    return strong(text) if found.low > 0 or found.high < 0 else text
