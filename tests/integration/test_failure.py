"""An exception on one rank of two: torchrun names rank and reason, and the rank's log holds the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY, SMALL

WORKER = Path(__file__).with_name("worker_planted.py")


@pytest.mark.integration
def test_what_failed_is_told_where_operators_look(world: Path, environment: dict[str, str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(WORKER), "error", "1", "3", "quickstart", "--data", str(world), "--run-dir", str(run_dir)]
    done = subprocess.run(
        [*command, *SMALL, "--trainer.max-steps", "9"],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    _, cause = done.stderr.split("Root Cause (first observed failure):")
    assert "rank      : 1" in cause and "RuntimeError: the disk of rank 1 is gone" in cause
    events = [json.loads(line) for line in (run_dir / "logs" / "rank_1.jsonl").read_text().splitlines()]
    last = events[-1]
    assert (last["event"], last["level"], last["rank"]) == ("exception", "ERROR", 1)
    assert (last["type"], last["message"]) == ("RuntimeError", "the disk of rank 1 is gone")
    assert "disturbed_batches" in last["traceback"]
