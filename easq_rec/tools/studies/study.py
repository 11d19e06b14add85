"""The parts of a study of training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from easq_rec.config import Config
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The conclusions of a study from its cells."""

    verdict: Verdict
    notes: Sequence[str] = ()
    """Sentences in addition to the verdict."""
    plots: Mapping[str, Any]
    """Figures by PNG name."""
    tables: Sequence[str] = ()
    """Other Markdown tables, in addition to that of the rows."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Entries of results.json that only this study has, as JSON values."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of cells and its conclusions."""

    name: str
    question: str
    cells: Callable[[Config, Sequence[int], Budget], list[Cell]]
    """Makes the cells, including those of `main_only`, from the base config, the seeds and the budget."""
    conclude: Callable[[StudyComparison, Budget], Findings]
    worlds_only: bool = False
    """Whether it changes the world, so that it cannot run on a data set."""
    budgets: tuple[Budget, ...] = ("small", "full")
    """Budgets that it has."""
    only_version: Literal[1, 2] | None = None
    """Version of the only world that it can run on; None: any."""
