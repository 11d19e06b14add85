"""The options of `easq-rec study`. No torch import: --help reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec.tools.studies.base import SEEDS, Budget

StudyName = Literal[
    "signal",
    "worth",
    "frontier",
    "map",
    "operating-point",
    "robustness",
    "ablation",
    "lambda2",
    "sparsity",
    "stability",
    "experts",
    "rank",
    "trigger",
    "ab",
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of a study."""

    name: Annotated[StudyName, tyro.conf.Positional]
    """The study."""
    seeds: int | None = None
    """Number of worlds, each with a seed of its own; on a data set, of training seeds. None: 5, or 2 at the small
    budget."""
    first_seed: int = 0
    """Seed of the first world; the others follow. Worlds on which a default was chosen cannot judge it: take others."""
    budget: Budget = "full"
    """small: seconds per run, to test that everything works. full: half a minute to two minutes per run on one core.
    large: as full, with a finer grid; study map only."""
    out: Path | None = None
    """Directory for results.json, table.md and PNGs. None: runs/study-NAME."""
    resume: bool = False
    """Continue the study in --out; finished runs are not repeated."""
    known: Path | None = None
    """results.json of an earlier run of this study: runs of the same configuration are taken from it. Use it only if
    the code of training has not changed since. None: everything is run."""
    jobs: int | None = None
    """Number of parallel runs on this machine, one thread each. None: one per core."""
    ray: str | None = None
    """Run as tasks of the Ray cluster with this address: auto, HOST:PORT or ray://HOST:PORT; local starts one on this
    machine. All nodes must see --out. None: processes of this machine."""
    gpus: float = 0.0
    """GPUs that Ray reserves for each run; a fraction lets runs share one. 0: runs train on CPUs."""
    world_version: Literal[1, 2] | None = None
    """Version of the generated worlds (world.version). None: 2 for worth, map and robustness, 1 for the
    others."""
    data: str | None = None
    """Directory or URL with requests/ and answers/. None: generated worlds."""
    recipe: str | None = None
    """Recipe for the data, whose variants are compared. None: quickstart."""
    families: tuple[str, ...] = ()
    """Methods to compare easq with, such as label_weights item_prior: the families of
    easq_rec/tools/studies/families.py. Empty: all. Study frontier only."""
    schema: Path | None = None
    """Schema file of the data, in TOML, in place of the recipe's schema. Study worth only."""

    @property
    def directory(self) -> Path:
        return self.out or Path("runs") / f"study-{self.name}"

    @property
    def seed_list(self) -> list[int]:
        return [self.first_seed + i for i in range(self.seeds or SEEDS[self.budget])]

    @property
    def job_count(self) -> int:
        return self.jobs or len(os.sched_getaffinity(0))
