"""A run on a disk that is full goes on, says what it could not write and why, and tells it at its end.

The disks are real file systems of a few megabytes, which only the commands of these tests see.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.full_disk import small_disk
from tests.integration.conftest import REPOSITORY, SMALL

SHARED = Path(os.environ.get("EASQ_CASES", REPOSITORY.parent / "shared" / "cases"))
FULL = "No space left on device (ENOSPC)"
SIZE = 6_000
"""Kibibytes of the disk: room for some checkpoints."""
STEPS = 12
OPTIONS = ("--trainer.max-steps", str(STEPS), "--checkpoint.every-steps", "4", "--logging.tensorboard", "True")


def trained(
    world: Path, environment: dict[str, str], disk: Path, *, before: str, meanwhile: str = "true", ranks: int = 1
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Trains in `disk`/run, after the shell command `before` and beside the command `meanwhile`.

    Returns:
        how the run ended, and its files by name.
    """
    disk.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    run = [sys.executable, *launcher, "easq_rec/train.py", "quickstart", "--data", str(world)]
    run += ["--run-dir", str(disk / "run"), *SMALL, *OPTIONS]
    kept = disk.parent / "kept"
    script = f"D={disk}; {before}; ({meanwhile}) & {shlex.join(run)}; code=$?; cp -r $D/run {kept}; exit $code"
    command = [*small_disk(str(disk), SIZE), "sh", "-c", script]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    return done, {path.name: path.read_text(errors="replace") for path in kept.rglob("*") if path.is_file()}


@pytest.mark.integration
def test_a_run_on_a_full_disk_reaches_its_end(world: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """It trains and evaluates. Without a checkpoint of its end, the exit code is that of a failed disk."""
    room = 40
    fill = f"head -c {(SIZE - room) * 1024} /dev/zero > $D/fill"
    done, files = trained(world, environment, tmp_path / "disk", before=fill)
    assert done.returncode == 74, done.stderr
    assert "held-out requests, ranked by the policy score" in done.stdout and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("easq-rec: ")]
    assert all(FULL in line for line in said), said
    assert sum("a checkpoint was not written" in line for line in said) == 1, "once, although three were not"
    assert f"step {STEPS} has no checkpoint: {FULL}" in said[-1] and "checkpoints (3x)" in said[-1]
    assert "trains again from the start" in said[-1]
    lines = files.get("metrics.jsonl", "").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1)), "whole lines only"


@pytest.mark.integration
def test_a_run_of_two_ranks_goes_on_when_there_is_room_again(
    world: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """The disk is full at the first checkpoint, until somebody makes room."""
    fill = f"head -c {(SIZE - 100) * 1024} /dev/zero > $D/fill"
    free = "until grep -q checkpoint_not_written $D/run/logs/rank_0.jsonl; do sleep 0.1; done; rm $D/fill"
    done, files = trained(world, environment, tmp_path / "disk", before=fill, meanwhile=free, ranks=2)
    assert done.returncode == 0, done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("easq-rec: warning: "))
    assert "not written: " in warning and "checkpoints (" in warning and FULL in warning
    assert f"The checkpoint of step {STEPS} was written" in warning
    steps = [json.loads(line)["step"] for line in files["metrics.jsonl"].splitlines()]
    assert steps[-2:] == [STEPS, STEPS], "the last step, and the final evaluation"
    (end,) = (json.loads(line) for line in files["rank_0.jsonl"].splitlines() if '"finished"' in line)
    assert end["not_written"]["checkpoints"] >= 1


@pytest.mark.integration
@pytest.mark.skipif(
    not (SHARED / "disk-full" / "run.sh").is_file(),
    reason="the case is not there: set EASQ_CASES to the directory that holds disk-full",
)
def test_the_reported_case(tmp_path: Path) -> None:
    small_disk(str(tmp_path), SIZE)  # Skips where it cannot be made.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "easq-rec").write_text(f'#!/bin/sh\nexec {sys.executable} -m easq_rec.cli "$@"\n')
    (programs / "easq-rec").chmod(0o755)
    environment = {**os.environ, "EASQ": str(programs), "TMP_CASE": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = ["bash", str(SHARED / "disk-full" / "run.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("easq-rec: step 60 has no checkpoint: ") and FULL in last, done.stdout + done.stderr
    assert "metrics (" in last and "Traceback" not in done.stdout
