"""`--checkpoint.copy-to`: a run goes on from the copies of its checkpoints when its disk is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from easq_rec.data import files
from tests.conftest import Warm
from tests.integration.conftest import Train, metrics
from tests.s3_server import KEYS, s3_server

Losses = Callable[[Path], list[tuple[float | None, ...]]]
STEPS = ("--trainer.max-steps", "12", "--checkpoint.every-steps", "4")


@pytest.fixture
def store(tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a folder on a real S3 server."""
    for name, value in KEYS.items():
        monkeypatch.setitem(warm.environment, name, value)
    with s3_server(tmp_path / "server.log") as options:
        yield f"s3://bucket/runs/a?{options}"


@pytest.mark.integration
def test_a_run_goes_on_when_its_disk_is_gone(train: Train, losses: Losses, tmp_path: Path, store: str) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(whole, *STEPS)
    copies = (*STEPS, "--checkpoint.copy-to", store)
    train(run, *copies, "--trainer.stop-at-step", "8")
    names = {name.partition("/")[0] for name in files.sizes(store)}
    assert names == {"config.json", "step_00000004", "step_00000008"}
    shutil.rmtree(run)
    done = train(run, *copies)
    assert (
        "checkpoint step_00000008 was fetched from s3://bucket/runs/a" in done.stdout and "from step 8" in done.stdout
    )
    assert losses(run) == losses(whole)[8:]
    assert metrics(run, "final") == metrics(whole, "final")
    # A damaged copy is left out, and the one before it is taken.
    shutil.rmtree(run)
    name = next(name for name in files.sizes(store) if name.startswith("step_00000012/__0_0"))
    files.write(files.join(store, name), files.read(files.join(store, name))[:-1] + b"x")
    done = train(run, *copies)
    assert "step_00000012 in s3://bucket/runs/a is damaged" in done.stdout and "from step 8" in done.stdout
    assert metrics(run, "final") == metrics(whole, "final")


@pytest.mark.integration
def test_copies_of_another_run_are_refused(train: Train, tmp_path: Path, store: str) -> None:
    copies = (*STEPS, "--checkpoint.copy-to", store)
    train(tmp_path / "one", *copies, "--trainer.stop-at-step", "4")
    done = train(tmp_path / "two", *copies, "--optim.dense-lr", "0.5", check=False)
    assert done.returncode == 2 and "s3://bucket/runs/a holds a run with another configuration: optim.dense_lr" in (
        done.stderr
    )
    assert "endpoint_override" not in done.stderr
    assert not (tmp_path / "two" / "checkpoints").exists()


@pytest.mark.integration
def test_a_store_that_fails_costs_copies_only(train: Train, tmp_path: Path) -> None:
    """One that cannot be read at the start is an error: the run might have to go on from there."""
    done = train(tmp_path / "run", *STEPS, "--checkpoint.copy-to", "file:///proc/store")
    assert "a copy of a checkpoint was not written to file:///proc/store" in done.stderr
    assert f"warning: checkpoints of {tmp_path / 'run'} lack a copy; not written: copies (3x)" in done.stderr
    gone = "s3://nobody/runs?endpoint_override=127.0.0.1%3A1&scheme=http&region=us-east-1"
    done = train(tmp_path / "run", *STEPS, "--checkpoint.copy-to", gone, check=False)
    assert done.returncode == 2 and "checkpoint.copy_to=s3://nobody/runs: copies of checkpoints cannot" in done.stderr
