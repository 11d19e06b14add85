"""Cells of a small study, and a stand-in for the trainer that runs a cell quickly."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

from easq_rec.config.losses import Dense
from easq_rec.config.variants import VARIANTS
from easq_rec.tools.studies.base import base_config, with_losses
from easq_rec.tools.studies.grid import Cell, grid
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import Run, opened

METRICS = ("satisfaction_ndcg5", "engagement_ndcg5", "pair_accuracy", "gauc")

TRAINER = """
import json, os, sys, time
from pathlib import Path
from easq_rec.tools.studies.cell import leave_with_parent

leave_with_parent()
config = json.loads(Path(sys.argv[1]).read_text())
run_dir, world = Path(config["run_dir"]), Path(config["data"]["path"])
run_dir.mkdir(parents=True)
weight = config["losses"]["dense"]["weight"]
with (world / "started").open("a") as started:
    started.write(f"{run_dir.parent.name} {os.getpid()}\\n")
if weight == 13.0:
    print("loading", "the table is gone", sep="\\n")
    sys.exit(3)
while weight > 0 and not (world / "go").exists():
    time.sleep(0.02)
values = {name: 0.5 + weight / 10 for name in METRICS}
fused = {text: {**values, "gauc": 0.5 + float(text.split("=")[-1])} for text in sys.argv[2:]}
(run_dir / "fused.json").write_text(json.dumps(fused))
(run_dir / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "final", **values, "gauc": None}) + "\\n")
""".replace("METRICS", repr(METRICS))
"""Stand-in for the trainer. Waits for a file `go` in the data directory, except for main_only. Fails at weight 13."""
PROGRAM = (sys.executable, "-c", TRAINER)


def cells(data: Path, *weights: float, seeds: int = 1) -> list[Cell]:
    """main_only, and easq with these weights of L_dense, on a data set."""
    base = base_config("small", data=str(data))
    variants = {f"dense {weight:g}": with_losses(base, dense=Dense(weight=weight)) for weight in weights}
    return grid({"main_only": VARIANTS["main_only"](base), **variants}, range(seeds))


def fusing(data: Path) -> list[Cell]:
    """main_only and easq; easq is also evaluated with two fused scores."""
    return [
        dataclasses.replace(cell, fuse=(0.25, 1.0) if cell.variant != "main_only" else ()) for cell in cells(data, 1.0)
    ]


def study(out: Path, data: Path, *weights: float, resume: bool = False) -> tuple[list[Run], list[str]]:
    """Runs these cells in `out`, two at a time."""
    with opened(out, study="test", budget="small", resume=resume) as store:
        return Runner(store, jobs=2, program=PROGRAM).run(cells(data, *weights))


def started(data: Path) -> dict[str, list[int]]:
    """Process ids by cell, one for each time that the cell was started."""
    found: dict[str, list[int]] = {}
    for line in (data / "started").read_text().splitlines():
        name, pid = line.split()
        found.setdefault(name, []).append(int(pid))
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not become true within a minute"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie, which its parent has not waited for, does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
