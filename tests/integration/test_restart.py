"""After a worker is killed, torchrun restarts the workers, and they resume from the last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.chaos import workers
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

STEPS = 40


@pytest.mark.integration
def test_killed_worker_resumes_from_the_checkpoint(world: Path, warm: Warm, tmp_path: Path) -> None:
    """One of two workers is killed with SIGKILL during the run.

    The exit code is 0, and every step is in the log exactly once.
    """
    run_dir = tmp_path / "run"
    script = ["easq_rec/train.py", "quickstart", "--data", str(world), "--run-dir", str(run_dir), *SMALL]
    options = ["--trainer.max-steps", str(STEPS), "--checkpoint.every-steps", "5"]
    process = subprocess.Popen(
        [*warm.torchrun(2, "--max_restarts", "1"), *script, *options],
        cwd=REPOSITORY,
        env={**warm.environment, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (run_dir / "checkpoints" / "step_00000010").exists():
        time.sleep(0.05)
    victims = workers(run_dir)
    assert len(victims) == 2
    os.kill(victims[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "training from step" in out
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, STEPS + 1))
