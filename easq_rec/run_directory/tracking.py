"""Reports the runs of TorchX jobs to the configured trackers (`torchx.tracker`).

The torchx command passes section [torchx:tracker] of `.torchxconfig` to the job as TORCHX_TRACKERS and TORCHX_JOB_ID.
If the environment lacks them, nothing is reported and torchx is not imported. If a tracker fails, its report is lost
and training continues.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easq_rec.run_directory.events import event
from easq_rec.run_directory.paths import RunDirectory, published

JOB, TRACKERS = "TORCHX_JOB_ID", "TORCHX_TRACKERS"
CHECKPOINT = "checkpoint"
"""Name of the artifact."""


def artifacts(run_dir: Path) -> tuple[Path, ...]:
    """The files that are reported when a run starts, each under its file name."""
    paths = RunDirectory(run_dir.resolve())
    return (paths.config, paths.metrics, paths.plan)


def report_start(run_dir: Path, *, recipe: str, world_size: int, device: str, versions: dict[str, str]) -> None:
    """Reports what is trained and where the files of the run will be. For rank 0 only, like `report_end`."""

    def report(run: Any) -> None:
        run.add_metadata(
            recipe=recipe, run_dir=str(run_dir.resolve()), world_size=world_size, device=device, versions=versions
        )
        for file in artifacts(run_dir):
            run.add_artifact(file.name, str(file))

    _reported("start", report)


def report_end(run_dir: Path, *, state: str, step: int, metrics: dict[str, float]) -> None:
    """Reports how a run has ended, its final metrics, and its newest checkpoint.

    Args:
        state: finished or stopped.
        metrics: on the held-out requests; empty for a run that was stopped.
    """

    def report(run: Any) -> None:
        finite = {f"final_{name}": value for name, value in metrics.items() if math.isfinite(value)}
        run.add_metadata(state=state, step=step, **finite)
        checkpoints = published(RunDirectory(run_dir.resolve()).checkpoints)
        if checkpoints:
            run.add_artifact(CHECKPOINT, str(checkpoints[-1].path), {"step": step})

    _reported("end", report)


def _reported(what: str, report: Callable[[Any], None]) -> None:
    if not (os.environ.get(JOB) and os.environ.get(TRACKERS)):
        return
    try:
        from torchx.tracker.api import AppRun

        report(AppRun.run_from_env())
    except Exception as error:
        # Trackers are code of third parties that calls remote services: they may raise any error.
        problem = f"{type(error).__name__}: {error}"
        print(
            f"easq-rec: the {what} of the run was not reported to {TRACKERS}={os.environ[TRACKERS]}: {problem}",
            file=sys.stderr,
            flush=True,
        )
        event("not_tracked", level=logging.WARNING, what=what, problem=problem)
