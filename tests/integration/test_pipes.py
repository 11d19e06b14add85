"""A command whose reader leaves, as `head` does, or that is interrupted, ends without a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from easq_rec.config.recipes import recipe
from easq_rec.config.serialization import to_dict
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL


def head(command: list[str], lines: int, directory: Path) -> tuple[int, str]:
    """Reads the first lines of a command's output, or none, and closes the pipe; returns exit code and stderr."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=300), said


@pytest.mark.integration
@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["data", "inspect", "--help"], ["--version"], ["runs", "list", "."], ["doctor"]],
)
def test_the_reader_of_a_short_output_leaves(words: list[str], tmp_path: Path) -> None:
    """The output is still buffered when the command has done its work."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(to_dict(recipe("quickstart"))))
    (run / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    assert head([sys.executable, "-m", "easq_rec.cli", *words], 0, tmp_path) == (141, "")


@pytest.mark.integration
def test_the_reader_of_an_inspection_leaves(world: Path, warm: Warm, tmp_path: Path) -> None:
    command = [warm.python, "-m", "easq_rec.cli", "data", "inspect", str(world), "--out", str(tmp_path / "out")]
    assert head(command, 1, tmp_path) == (141, "")


@pytest.mark.integration
def test_the_reader_of_the_progress_leaves(world: Path, warm: Warm, tmp_path: Path) -> None:
    script = str(REPOSITORY / "easq_rec" / "train.py")
    options = ["--data", str(world), "--run-dir", "run", *SMALL, "--trainer.max-steps", "5000"]
    assert head([warm.python, script, "quickstart", *options], 3, tmp_path) == (141, "")
    assert not (tmp_path / "run" / "writer").exists(), "the directory is given back"


@pytest.mark.integration
def test_an_interrupt_outside_of_training_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "easq_rec.cli", "data", "world", "--out", "world", "--requests", "3000000"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    # By the first file all libraries are loaded: an import of theirs may swallow an interrupt.
    while not list(tmp_path.glob(".world.*/**/*.parquet")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and said.splitlines()[-1] == "easq-rec: interrupted"
    assert "Traceback" not in said and not list(tmp_path.iterdir()), "nothing is left"
