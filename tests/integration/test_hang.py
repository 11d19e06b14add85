"""A rank that hangs: it is named with what the others wait in, and the job ends. A slow one is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY, SMALL, metrics

WORKER = Path(__file__).with_name("worker_planted.py")
PATIENCE_S, STEP, STEPS = 5, 4, 6


def start(
    world: Path, environment: dict[str, str], run_dir: Path, what: str, steps: int = STEPS
) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(WORKER), what, "1", str(STEP), "quickstart", "--data", str(world)]
    limits = ("--trainer.max-steps", str(steps), "--trainer.timeout-s", str(PATIENCE_S))
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir), *SMALL, *limits],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.integration
def test_a_rank_that_hangs_is_named(world: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It sleeps in its reader; the other waits for its ids. Both stacks are where they should be."""
    job = start(world, environment, tmp_path / "run", "hang")
    _, said = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "rank 1 hangs" in said, said[-4_000:]
    lines = [line for line in said.splitlines() if line.lstrip().startswith("rank ") and "after step" in line]
    waiting, hanging = lines[:2]
    assert waiting.startswith("  rank 0 after step ") and "waits in " in waiting
    assert hanging.startswith("  rank 1 after step ") and "waits" not in hanging
    assert "disturbed_batches" in said, "the stack of the rank that hangs"
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").glob("rank_*.jsonl"))
    assert any(json.loads(line)["event"] == "hang" for line in logs.splitlines())


@pytest.mark.integration
def test_a_stopped_process_is_named_and_ended(world: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It cannot say anything itself, and torchrun alone would wait for it for half a minute more."""
    run_dir = tmp_path / "run"
    job = start(world, environment, run_dir, "nothing", steps=10_000)
    until = time.monotonic() + 60
    while not (run_dir / "metrics.jsonl").exists() or len(metrics(run_dir)) < 3:
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.05)
    pid = json.loads((run_dir / "logs" / "position_1.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    _, said = job.communicate(timeout=120)
    took = time.monotonic() - stopped
    assert job.returncode != 0
    assert "rank 1 hangs" in said and f"(pid {pid} on " in said and "is stopped or gone" in said, said[-4_000:]
    assert took < PATIENCE_S + 15, "the launcher waits for nobody"


@pytest.mark.integration
def test_a_slow_rank_is_waited_for(world: Path, environment: dict[str, str], tmp_path: Path) -> None:
    job = start(world, environment, tmp_path / "run", "slow")
    _, said = job.communicate(timeout=120)
    assert job.returncode == 0, said[-4_000:]
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert not list((tmp_path / "run" / "logs").glob("position_*")), "nothing is left of the watch"
