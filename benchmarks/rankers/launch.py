"""Starts a separate process for each job, one after another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rankers.impressions import Floats
from benchmarks.rankers.worker import Job
from easq_rec.errors import UserError

PEER_SOURCES = (
    "impressions.py",
    "counts.py",
    "boosting.py",
    "torch_models.py",
    "deepctr_models.py",
    "quality.py",
    "worker.py",
)
"""Files beside this one that a peer's result depends on."""


class Workers:
    """Starts the jobs.

    Args:
        folder: takes the files of the peers' jobs. One whose result is there is not run again: its name is a digest of
            the job, the data, the versions and the peers' code.
        temporary: takes the files of the recipes' jobs, which have large checkpoints.
        versions: of the libraries of the peers.
    """

    def __init__(self, folder: Path, temporary: Path, versions: Mapping[str, str]) -> None:
        self._folder, self._temporary = folder, temporary
        here = Path(__file__).parent
        self._code = [repr(sorted(versions.items())), *((here / name).read_text() for name in PEER_SOURCES)]
        self._recipes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, job: Job) -> tuple[dict[str, Any], Floats | None]:
        """(result, scores) of a job. Raises UserError if that is how the job ends."""
        path = self._path(job)
        result, scores = path.with_suffix(".result.json"), path.with_suffix(".scores.npy")
        if not result.exists():
            print(f"{job.kind:>7} {job.ranker}, seed {job.seed}", file=sys.stderr, flush=True)
            path.write_text(json.dumps(dataclasses.asdict(job)))
            self._start(path, job.ranker)
        return json.loads(result.read_text()), np.load(scores) if scores.exists() else None

    def _path(self, job: Job) -> Path:
        if job.kind == "recipe":
            # The whole package decides what a recipe learns, so it is trained in every call.
            self._recipes += 1
            return self._temporary / f"recipe-{self._recipes}.json"
        # The paths of the files do not matter, but their contents do.
        values = dataclasses.asdict(job) | {name: _digest(Path(getattr(job, name))) for name in ("train", "held")}
        digest = hashlib.sha256(json.dumps([values, self._code]).encode()).hexdigest()[:16]
        return self._folder / f"{job.kind}-{job.ranker}-{digest}.json"

    def _start(self, path: Path, ranker: str) -> None:
        command = [sys.executable, "-m", "benchmarks.rankers.worker", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 2:
            raise UserError(f"{ranker}: {done.stderr.rpartition('easq-rec: ')[2].strip()}")
        if done.returncode:
            raise RuntimeError(f"{ranker}: exit code {done.returncode}: {done.stderr.strip()[-4_000:]}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
