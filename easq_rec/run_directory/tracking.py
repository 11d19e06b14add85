"""What a job that TorchX has launched reports to the trackers that are configured for it (`torchx.tracker`).

The torchx command passes on what `.torchxconfig` says in [torchx:tracker]: TORCHX_TRACKERS and TORCHX_JOB_ID are in the
environment then. Without them, or without torchx, nothing is reported and torchx is not even imported. A tracker that
fails costs its report, never the training.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easq_rec.run_directory.checkpoint_files import published
from easq_rec.run_directory.events import event

JOB, TRACKERS = "TORCHX_JOB_ID", "TORCHX_TRACKERS"
ARTIFACTS = ("config.json", "metrics.jsonl", "plan.json")
"""Files of a run directory, which bear these names in the tracker too."""
CHECKPOINT = "checkpoint"


def report_start(run_dir: Path, *, recipe: str, world_size: int, device: str, versions: dict[str, str]) -> None:
    """Reports what a run is and where its files will be. Called by rank 0, as is `report_end`."""

    def report(run: Any) -> None:
        run.add_metadata(
            recipe=recipe, run_dir=str(run_dir.resolve()), world_size=world_size, device=device, versions=versions
        )
        for name in ARTIFACTS:
            run.add_artifact(name, str((run_dir / name).resolve()))

    _reported("start", report)


def report_end(run_dir: Path, *, state: str, step: int, metrics: dict[str, float]) -> None:
    """Reports how a run has ended, the metrics of its end, and its newest checkpoint.

    Args:
        state: finished or stopped.
        metrics: on the held-out requests; none of a run that was stopped.
    """

    def report(run: Any) -> None:
        finite = {f"final_{name}": value for name, value in metrics.items() if math.isfinite(value)}
        run.add_metadata(state=state, step=step, **finite)
        checkpoints = published(run_dir / "checkpoints")
        if checkpoints:
            run.add_artifact(CHECKPOINT, str(checkpoints[-1].resolve()), {"step": step})

    _reported("end", report)


def _reported(what: str, report: Callable[[Any], None]) -> None:
    if not (os.environ.get(JOB) and os.environ.get(TRACKERS)):
        return
    try:
        from torchx.tracker.api import AppRun

        report(AppRun.run_from_env())
    except Exception as error:
        # Backends are anyone's code, and speak to services that may be away: any error at all may come from them.
        problem = f"{type(error).__name__}: {error}"
        print(
            f"easq-rec: the {what} of the run was not reported to {TRACKERS}={os.environ[TRACKERS]}: {problem}",
            file=sys.stderr,
            flush=True,
        )
        event("not_tracked", level=logging.WARNING, what=what, problem=problem)
