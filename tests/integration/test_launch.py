"""The launch commands as users type them, from the root of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL

TORCHX = Path(sys.executable).parent / "torchx"


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with an environment that is not activated."""
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.integration
def test_torchx_trains_and_prints_the_table(world: Path, tmp_path: Path) -> None:
    """`torchx run dist.ddp -j 1x2 easq_rec/train.py RECIPE --overrides` prints one table, from rank 0."""
    arguments = ["easq", "--data", str(world), "--run-dir", str(tmp_path / "run"), "--trainer.max-steps", "3", *SMALL]
    done = launch(str(TORCHX), "run", "dist.ddp", "-j", "1x2", "easq_rec/train.py", *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "on 2 x cpu" in output
    tables = [line for line in output.splitlines() if "satisfaction NDCG@5" in line]
    assert len(tables) == 1
    assert "[0]:" in tables[0], "the table is not from rank 0"
    assert "Warning" not in output
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.integration
def test_failing_rank_fails_the_launch_and_shows_its_error(tmp_path: Path) -> None:
    """After an error in the workers the exit code is not zero, and the output has the message."""
    missing = tmp_path / "nowhere"
    done = launch(str(TORCHX), "run", "dist.ddp", "-j", "1x2", "easq_rec/train.py", "easq", "--data", str(missing))
    assert done.returncode != 0
    assert f"--data {missing}: no such directory" in done.stdout + done.stderr


@pytest.mark.integration
def test_script_trains_without_a_launcher(world: Path, tmp_path: Path) -> None:
    """`python easq_rec/train.py` needs no launcher."""
    arguments = ["main_only", "--data", str(world), "--run-dir", str(tmp_path / "run"), "--trainer.max-steps", "3"]
    done = launch(sys.executable, "easq_rec/train.py", *arguments, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "satisfaction NDCG@5" in done.stdout
    assert done.stderr == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nope"], "unknown recipe 'nope': one of quickstart, easq"),
        (["train", "--losses.dpo.beta", "-1"], "losses.dpo.beta=-1.0 is not allowed: more than 0"),
        (["train", "--trainer.device", "tpu"], "invalid choice 'tpu' for argument '--trainer.device'"),
        (["train", "--optim.dense-lr", "fast"], "--optim.dense-lr: could not convert string to float: 'fast'"),
        (["train", "--no.such", "1"], "Unrecognized options: --no.such"),
        (["train", "movielens"], "recipe 'movielens' needs --data DIR"),
        (["train", "--data", "/nowhere"], "--data /nowhere: no such directory"),
        (["evaluate", "--run", "/nowhere"], "--run /nowhere: no config.json in it"),
        (["frobnicate"], "Unrecognized options: frobnicate (Available subcommands: train, evaluate, compare"),
        (
            ["data", "frobnicate"],
            "Unrecognized options: frobnicate (Available subcommands: world, build, inspect, counts, convert, join)",
        ),
        (["data"], "Expected one of {world, build, inspect, counts, convert, join}"),
        (["evaluate"], "Missing from easq-rec evaluate: --run PATH"),
        (["evaluate", "--run", "x", "--bst"], "Unrecognized options: --bst (Perhaps you meant: --best)"),
        (["data", "world", "--out", "x", "--requests", "0"], "easq-rec: world.requests=0 is not allowed: at least 1"),
        (["study", "nope"], "invalid choice 'nope' for argument 'name'. Expected one of ('signal', 'worth'"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], message: str) -> None:
    """The exit code is 2. The line names the field, its value and the allowed values."""
    done = launch(sys.executable, "-m", "easq_rec.cli", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.integration
def test_run_without_holdout_says_that_there_is_nothing_to_evaluate(warm: Warm, world: Path, tmp_path: Path) -> None:
    """With data.holdout 0 the run trains on all requests and ends without an error."""
    arguments = ["easq", "--data", str(world), "--run-dir", str(tmp_path / "run"), "--trainer.max-steps", "2"]
    done = warm.run(warm.python, "easq_rec/train.py", *arguments, "--data.holdout", "0", *SMALL)
    assert "nothing to evaluate" in done.stdout
