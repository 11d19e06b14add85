"""`easq-rec study NAME`: runs a study, and writes and prints what it says."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easq_rec.config.recipes import BASES
from easq_rec.config.schema import require
from easq_rec.data import files
from easq_rec.tools.studies import (
    ab,
    ablation,
    frontier,
    lambda2,
    signal,
    sparsity,
    stability,
    trigger,
)
from easq_rec.tools.studies import (
    experts_rank as sizes,
)
from easq_rec.tools.studies.base import SEEDS, Budget, base_config
from easq_rec.tools.studies.behaviour_lift import measure
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import check_names
from easq_rec.tools.studies.publish import cell_values, circumstances, publish, published_cells, table
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import Run, Store, opened
from easq_rec.tools.studies.study import Study

STUDIES = {
    study.name: study
    for study in (
        frontier.STUDY,
        ablation.STUDY,
        lambda2.STUDY,
        sparsity.STUDY,
        stability.STUDY,
        sizes.EXPERTS,
        sizes.RANK_STUDY,
        trigger.STUDY,
        ab.STUDY,
    )
}
"""Those that train. `signal` does not."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for."""

    name: str
    seeds: int | None = None
    """None: what the budget says."""
    budget: Budget = "full"
    out: Path | None = None
    """None: runs/study-NAME."""
    resume: bool = False
    shared: bool = False
    """Whether other processes may be at work on the same study in `out`."""
    jobs: int | None = None
    """None: one per core."""
    data: str | None = None
    """None: generated worlds."""
    recipe: str | None = None
    """Base of the variants on a data set; None: quickstart."""

    def __post_init__(self) -> None:
        names = ["signal", *STUDIES]
        require(self.name in names, "study", self.name, f"one of {', '.join(names)}")
        for name in ("seeds", "jobs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name}", value, "at least 1")
        require(
            not (self.shared and self.resume), "--resume", True, "left out: --shared goes on with the study as well"
        )
        require(not self.shared or self.name in STUDIES, "--shared", True, "left out: study signal trains nothing")
        if self.recipe is not None:
            require(self.recipe in BASES, "--recipe", self.recipe, f"one of {', '.join(BASES)}")
            require(self.data is not None, "--recipe", self.recipe, "given along with --data")
        if self.data is not None:
            worlds_only = self.name in STUDIES and STUDIES[self.name].worlds_only
            require(not worlds_only, "--data", self.data, f"left out: study {self.name} generates its worlds")
            require(
                files.is_dir(self.data), "--data", files.shown(self.data), "a directory with requests/ and answers/"
            )

    @property
    def directory(self) -> Path:
        return self.out or Path("runs") / f"study-{self.name}"

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds or SEEDS[self.budget]))

    @property
    def job_count(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0))

    @property
    def command(self) -> list[str]:
        """The call that does the same, for results.json."""
        data = [] if self.data is None else ["--data", files.shown(self.data)]
        recipe = [] if self.recipe is None else ["--recipe", self.recipe]
        shared = ["--shared"] if self.shared else []
        return [
            *("easq-rec", "study", self.name, "--seeds", str(len(self.seed_list)), "--budget", self.budget),
            *("--out", str(self.directory), "--jobs", str(self.job_count), *data, *recipe, *shared),
        ]


def run(wanted: Wanted) -> int:
    """Returns the exit code: 0, 1 where a cell failed, 130 on Ctrl-C.

    Raises:
        ValueError: something that was asked for cannot be done.
    """
    how = {"resume": wanted.resume, "shared": wanted.shared}
    with opened(wanted.directory, study=wanted.name, budget=wanted.budget, **how) as store:
        try:
            return _signal(wanted, store) if wanted.name == "signal" else _train(wanted, STUDIES[wanted.name], store)
        except KeyboardInterrupt:
            again = "the same command" if wanted.shared else "the same command with --resume"
            print(f"interrupted; {again} goes on", file=sys.stderr)
            return 130


def _train(wanted: Wanted, study: Study, store: Store) -> int:
    begin = time.perf_counter()
    base = base_config(wanted.budget, recipe=wanted.recipe, data=wanted.data)
    cells = study.cells(base, wanted.seed_list, wanted.budget)
    check_names(cells)
    print(f"study {study.name}, budget {wanted.budget}: {len(cells)} cells, {wanted.job_count} at a time", flush=True)
    runs, failed = Runner(store, jobs=wanted.job_count).run(cells)
    with store.turn("results"):
        if store.shared and published_cells(store.out) == [run.cell.digest for run in runs]:
            print(f"{len(runs)} of {len(cells)} cells are finished; their results are in {store.out} already")
        else:
            _conclude(wanted, study, store, runs, failed, begin)
    return 1 if failed else 0


def _conclude(
    wanted: Wanted, study: Study, store: Store, runs: Sequence[Run], failed: Sequence[str], begin: float
) -> None:
    """Writes and prints what the cells say."""
    found = StudyComparison(runs)
    rows = found.rows()
    findings = study.conclude(found, wanted.budget)
    incomplete = [f"{len(failed)} of {len(runs) + len(failed)} cells failed: {', '.join(failed)}"] if failed else []
    shown = table(rows, "worlds" if wanted.data is None else "seeds")
    publish(
        store.out,
        results={
            "study": study.name,
            "question": study.question,
            **_common(wanted, begin),
            "cell_seconds": round(sum(run.seconds for run in runs), 1),
            "cells": [cell_values(run) for run in runs],
            "failed": failed,
            "rows": [row.values() for row in rows],
            "verdict": findings.verdict.values(),
            "notes": list(findings.notes),
            **findings.extra,
        },
        text=[
            f"# Study {study.name}",
            study.question,
            findings.verdict.text(),
            *incomplete,
            shown,
            "Δ is the change against main_only in percent, paired by world (by seed on a data set), with its 95% t "
            "interval.",
            *findings.tables,
            *findings.notes,
        ],
        figures=findings.plots,
    )
    tables = [line for one in findings.tables for line in (one, "")]
    print("\n".join(["", shown, "", *tables, *findings.notes, "", findings.verdict.text(), "", *incomplete]))
    print(f"written to {store.out}")


def _signal(wanted: Wanted, store: Store) -> int:
    begin = time.perf_counter()
    if wanted.data is None:
        locations = signal.worlds(wanted.budget, wanted.seed_list, store)
    else:
        locations = [wanted.data]
    found = measure(locations)
    verdict, shown = signal.verdict(found, wanted.budget if wanted.data is None else "full"), signal.table(found)
    notes = signal.notes(found)
    publish(
        store.out,
        results={
            "study": "signal",
            "question": signal.QUESTION,
            **_common(wanted, begin),
            "rows": signal.values(found),
            "verdict": verdict.values(),
            "notes": notes,
        },
        text=["# Study signal", signal.QUESTION, verdict.text(), shown, *notes],
        figures=signal.figures(found),
    )
    print("\n".join(["", shown, "", *notes, "", verdict.text(), "", f"written to {store.out}"]))
    return 0


def _common(wanted: Wanted, begin: float) -> dict[str, Any]:
    return {
        **circumstances(wanted.command),
        "budget": wanted.budget,
        "seeds": wanted.seed_list,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
