"""If a rank hangs, the job ends and reports the rank and its phase. A slow rank does not end the job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

WORKER = Path(__file__).with_name("worker_planted.py")
PATIENCE_S, STEP, STEPS = 8, 4, 6
PLACES = {
    "hang": ("after step ", "exchange: data", "exchange: forward", "in disturbed_batches"),
    "start": ("starting, ", "preparing the data", "waiting for ranks", "in hang"),
    "end": (f"after step {STEPS}, ", "end of the run", "waiting for ranks", "in hang"),
}
"""By planted fault: the position of both ranks, the phases of the hanging and of the other rank, a stack entry."""


def start(world: Path, warm: Warm, run_dir: Path, what: str, steps: int = STEPS) -> subprocess.Popen[str]:
    command = [*warm.torchrun(2), str(WORKER), f"{what}@{STEP}", "1", "quickstart", "--data", str(world)]
    limits = ("--trainer.max-steps", str(steps), "--trainer.timeout-s", str(PATIENCE_S))
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir), *SMALL, *limits],
        cwd=REPOSITORY,
        env=warm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.integration
@pytest.mark.parametrize("what", PLACES)
def test_a_hanging_rank_is_named(world: Path, warm: Warm, tmp_path: Path, what: str) -> None:
    """The rank hangs in its reader, before the model is built, or after the last evaluation.

    The other rank waits for it.
    """
    when, phase, other_phase, planted = PLACES[what]
    job = start(world, warm, tmp_path / "run", what)
    _, said = job.communicate(timeout=240)
    assert job.returncode != 0
    assert "rank 1 hangs" in said, said[-4_000:]
    waiting, hanging = [line for line in said.splitlines() if line.startswith("  rank ")][:2]
    assert waiting.startswith(f"  rank 0 {when}") and waiting.endswith(f" phase {other_phase}"), said[-4_000:]
    assert hanging.startswith(f"  rank 1 {when}") and hanging.endswith(f" phase {phase}"), said[-4_000:]
    assert "stacks of rank 1\n" in said and planted in said
    assert planted in (tmp_path / "run" / "logs" / "stacks_1.txt").read_text()
    logs = tmp_path / "run" / "logs"
    (report,) = logs.glob("hang_*.txt")
    assert hanging in report.read_text()
    if what == "hang":
        events = "".join(path.read_text() for path in logs.glob("rank_*.jsonl"))
        assert any(json.loads(line)["event"] == "hang" for line in events.splitlines())


@pytest.mark.integration
def test_a_stopped_process_is_named_and_ended(world: Path, warm: Warm, tmp_path: Path) -> None:
    """A stopped process cannot report itself, and torchrun would wait for it for another half minute."""
    run_dir = tmp_path / "run"
    job = start(world, warm, run_dir, "nothing", steps=10_000)
    until = time.monotonic() + 240
    while not (run_dir / "metrics.jsonl").exists() or len(metrics(run_dir)) < 3:
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.05)
    pid = json.loads((run_dir / "logs" / "rank_1.jsonl").read_text().splitlines()[0])["pid"]
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    _, said = job.communicate(timeout=240)
    took = time.monotonic() - stopped
    assert job.returncode != 0
    assert "rank 1 hangs" in said and f"(pid {pid} on " in said and "is stopped, gone" in said, said[-4_000:]
    assert took < PATIENCE_S + 25, "the launcher waited for the stopped process"


@pytest.mark.integration
def test_a_slow_rank_does_not_end_the_job(world: Path, warm: Warm, tmp_path: Path) -> None:
    job = start(world, warm, tmp_path / "run", "slow")
    _, said = job.communicate(timeout=240)
    assert job.returncode == 0, said[-4_000:]
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert not list((tmp_path / "run" / "logs").glob("position_*")), "the watchdogs remove their files"
