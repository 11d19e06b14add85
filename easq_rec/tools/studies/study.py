"""What a study of training runs is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easq_rec.config import Config
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a study concludes from its cells."""

    verdict: Verdict
    notes: Sequence[str] = ()
    """Sentences besides the verdict."""
    plots: Mapping[str, Any]
    """Figures by the name of their PNG."""
    tables: Sequence[str] = ()
    """In Markdown, besides that of the rows."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Entries of results.json that this study alone has, as JSON values."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of cells and what is concluded from it."""

    name: str
    question: str
    cells: Callable[[Config, Sequence[int], Budget], list[Cell]]
    """From the base config, the seeds and the budget to the cells, those of `main_only` among them."""
    conclude: Callable[[StudyComparison, Budget], Findings]
    worlds_only: bool = False
    """Whether it changes the world itself, and so cannot be done on a data set."""
