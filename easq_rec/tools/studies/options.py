"""The options of `easq-rec study`. No torch import: --help reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec.tools.studies.base import SEEDS, Budget

StudyName = Literal[
    "signal", "frontier", "ablation", "lambda2", "sparsity", "stability", "experts", "rank", "trigger", "ab"
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which study, how large, and where."""

    name: Annotated[StudyName, tyro.conf.Positional]
    """The study."""
    seeds: int | None = None
    """Worlds, with seeds 0 to N-1; on a data set training seeds. None: 5, or 2 at the small budget."""
    budget: Budget = "full"
    """small: seconds a run, to see that all works. full: half a minute to two minutes a run on one core."""
    out: Path | None = None
    """Directory for results.json, table.md and PNGs. None: runs/study-NAME."""
    resume: bool = False
    """Continue the study in --out: its finished runs are not run again."""
    shared: bool = False
    """Other processes, also on other machines, may work on the same study in --out. Each takes runs that no other has
    taken, waits for those of the others, and takes over from a process that ended. The last one writes the results."""
    jobs: int | None = None
    """Runs at a time, one thread each. None: one per core."""
    data: str | None = None
    """Directory or URL with requests/ and answers/. None: generated worlds."""
    recipe: str | None = None
    """Recipe that fits the data, whose variants are compared. None: quickstart."""

    @property
    def directory(self) -> Path:
        return self.out or Path("runs") / f"study-{self.name}"

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds or SEEDS[self.budget]))

    @property
    def job_count(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0))
