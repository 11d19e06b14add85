"""SIGTERM ends two ranks in any phase, with a checkpoint of the current step and exit code 0."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos import workers
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

WORKER = Path(__file__).with_name("worker_planted.py")
GRACE_S = 10
"""Limit from SIGTERM to the end of a rank. Every scheduler gives a process more time before SIGKILL."""


def preempted(
    world: Path, warm: Warm, run_dir: Path, options: tuple[str, ...], ready: Callable[[], bool],
    what: str = "nothing", launcher_alone: bool = False,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Starts two ranks. Once `ready` is true, sends SIGTERM to both or to their launcher, as a scheduler does."""
    command = [*warm.torchrun(2), str(WORKER), what, "1", "quickstart", "--data", str(world), "--run-dir", str(run_dir)]
    job = subprocess.Popen(
        [*command, *SMALL, *options],
        cwd=REPOSITORY,
        env=warm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 240
    while not ready():
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.02)
    found = workers(run_dir)
    assert len(found) == 2
    begin = time.time()
    for pid in [job.pid] if launcher_alone else found:
        os.kill(pid, signal.SIGTERM)
    out, said = job.communicate(timeout=240)
    # The log has the time of the end: a busy machine may take long to end processes that have already stopped.
    for rank in (0, 1):
        logs = [json.loads(line) for line in (run_dir / "logs" / f"rank_{rank}.jsonl").read_text().splitlines()]
        (stopped,) = (line["time"] for line in logs if line["event"] == "stopped")
        assert datetime.datetime.fromisoformat(stopped).timestamp() - begin < GRACE_S
    return subprocess.CompletedProcess(command, job.returncode, out, said)


def last_checkpoint(run_dir: Path) -> int:
    return max(int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*"))


@pytest.mark.integration
def test_sigterm_in_training_during_a_save(world: Path, warm: Warm, tmp_path: Path) -> None:
    """Every step is saved in the background, so the signal comes during a save."""
    run_dir = tmp_path / "run"
    options = ("--trainer.max-steps", "2000", "--checkpoint.every-steps", "1")
    saves = run_dir / "checkpoints"
    done = preempted(world, warm, run_dir, options, lambda: any(saves.glob(".step_*5.partial")))
    assert done.returncode == 0, done.stderr
    assert last_checkpoint(run_dir) == metrics(run_dir)[-1]["step"] < 2_000
    assert not list(saves.glob(".*")), "no partial checkpoint is left"
    logs = [json.loads(line) for line in (run_dir / "logs" / "rank_1.jsonl").read_text().splitlines()]
    assert [line["event"] for line in logs][-1] == "stopped"
    assert {line["signal"] for line in logs if line["event"] == "signal"} == {"SIGTERM"}


@pytest.mark.integration
def test_sigterm_in_an_evaluation(world: Path, warm: Warm, tmp_path: Path) -> None:
    """The evaluation would take longer than the limit. It is aborted, and its partial results are not written."""
    run_dir = tmp_path / "run"
    sizes = ("--trainer.max-steps", "2000", "--evaluation.every-steps", "3", "--evaluation.batch-size", "4")

    def in_evaluation() -> bool:
        log = run_dir / "metrics.jsonl"
        steps = [line["step"] for line in metrics(run_dir)] if log.exists() else []
        # The evaluation starts after the line of its step is written.
        return bool(steps) and steps[-1] == 3 and time.time() - log.stat().st_mtime > 2

    done = preempted(world, warm, run_dir, sizes, in_evaluation, what="evaluation")
    assert done.returncode == 0, done.stderr
    assert last_checkpoint(run_dir) == 3 and not metrics(run_dir, "holdout")
    assert "stopped after step 3 with a checkpoint" in done.stdout


@pytest.mark.integration
def test_sigterm_in_the_last_evaluation(world: Path, warm: Warm, tmp_path: Path) -> None:
    """The run is not finished without the last evaluation. The same command runs it."""
    run_dir = tmp_path / "run"
    sizes = ("--trainer.max-steps", "3", "--evaluation.batch-size", "4")
    saved = run_dir / "checkpoints" / "step_00000003"
    done = preempted(world, warm, run_dir, sizes, saved.exists, what="evaluation")
    assert done.returncode == 0, done.stderr
    assert "stopped after step 3 with a checkpoint" in done.stdout and not metrics(run_dir, "final")
    warm.run(
        warm.python, "easq_rec/train.py", "quickstart", "--data", str(world), "--run-dir", str(run_dir), *SMALL, *sizes
    )
    assert len(metrics(run_dir, "final")) == 1


@pytest.mark.integration
def test_sigterm_before_the_first_step(world: Path, warm: Warm, tmp_path: Path) -> None:
    """The signal comes while the model is built.

    The run makes no step, because a step may be long. The same command resumes it.
    """
    run_dir = tmp_path / "run"
    logs = [run_dir / "logs" / f"rank_{rank}.jsonl" for rank in (0, 1)]
    options = ("--trainer.max-steps", "2")
    done = preempted(world, warm, run_dir, options, lambda: all(log.exists() and log.stat().st_size for log in logs))
    assert done.returncode == 0, done.stderr
    assert "stopped after step 0 with a checkpoint" in done.stdout
    assert last_checkpoint(run_dir) == 0 and not (run_dir / "metrics.jsonl").exists()
    warm.run(
        warm.python,
        "easq_rec/train.py",
        "quickstart",
        "--data",
        str(world),
        "--run-dir",
        str(run_dir),
        *SMALL,
        *options,
    )
    assert [line["step"] for line in metrics(run_dir)] == [1, 2]


@pytest.mark.integration
def test_the_launcher_forwards_sigterm(world: Path, warm: Warm, tmp_path: Path) -> None:
    """Only the launcher gets the signal, as in a container. The exit code is that of torchrun, which is not 0."""
    run_dir = tmp_path / "run"
    log = run_dir / "metrics.jsonl"
    options = ("--trainer.max-steps", "2000")
    done = preempted(
        world, warm, run_dir, options, lambda: log.exists() and len(metrics(run_dir)) > 3, launcher_alone=True
    )
    assert done.returncode != 0 and "stopped after step" in done.stdout
    assert last_checkpoint(run_dir) == metrics(run_dir)[-1]["step"] < 2_000
