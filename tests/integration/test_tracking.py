"""A run launched by TorchX reports to the tracker that its configuration names. Other runs report to none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.tracker.api import AppRun
from torchx.tracker.backend.fsspec import create

from easq_rec.run_directory import tracking
from easq_rec.run_directory.paths import published
from tests.conftest import Warm
from tests.integration.conftest import REPOSITORY, SMALL, metrics

TORCHX = Path(sys.executable).parent / "torchx"


def configured(folder: Path) -> Path:
    """Writes the configuration of a tracker that stores its runs in `folder`/tracked."""
    (folder / "tracked").mkdir()
    config = folder / "tracker.conf"
    config.write_text(f"protocol=file\nroot_path={folder / 'tracked'}\n")
    return config


@pytest.mark.integration
def test_a_run_is_tracked(world: Path, warm: Warm, tmp_path: Path) -> None:
    """The configuration of `torchx run` has a section [torchx:tracker].

    The tracker is read as `torchx tracker` reads it.
    """
    run_dir, config = tmp_path / "run", configured(tmp_path)
    torchxconfig = tmp_path / ".torchxconfig"
    torchxconfig.write_text(f"[torchx:tracker]\nfsspec=\n\n[tracker:fsspec]\nconfig={config}\n")
    job = ["run", "-s", "local_cwd", "dist.ddp", "-j", "1x1", "easq_rec/train.py", "main_only", "--data", str(world)]
    done = subprocess.run(
        [str(TORCHX), *job, "--run-dir", str(run_dir), "--trainer.max-steps", "3", *SMALL],
        cwd=REPOSITORY,
        env={**warm.environment, "TORCHXCONFIG": str(torchxconfig)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tracker = create(str(config))
    (run_id,) = tracker.run_ids()
    assert run_id.startswith("local_cwd://torchx/")
    told = tracker.metadata(run_id)
    assert (told["recipe"], told["world_size"], told["device"]) == ("main_only", 1, "cpu")
    assert (told["state"], told["step"]) == ("finished", 3)
    versions = told["versions"]
    assert isinstance(versions, dict) and {"easq-rec", "python", "torch", "torchrec", "torchx"} <= versions.keys()
    assert told["final_satisfaction_ndcg5"] == metrics(run_dir, "final")[0]["satisfaction_ndcg5"]
    artifacts = {name: Path(artifact.path) for name, artifact in tracker.artifacts(run_id).items()}
    files = {file.name: file for file in tracking.artifacts(run_dir)}
    assert {name: artifacts[name] for name in files} == files
    assert all(path.is_absolute() and path.exists() for path in artifacts.values())
    assert artifacts["checkpoint"] == published(run_dir / "checkpoints")[-1].path
    assert tracker.artifacts(run_id)["checkpoint"].metadata == {"step": 3}


@pytest.mark.parametrize("missing", [(tracking.JOB,), (tracking.TRACKERS,)])
def test_without_a_job_or_a_tracker_nothing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    prepare(tmp_path, monkeypatch, configured(tmp_path))
    tracking.report_end(tmp_path, state="stopped", step=1, metrics={"gauc": 0.5, "calibration": float("nan")})
    assert count(tmp_path / "tracked") == 1, "a run with a job and a tracker is reported"
    for name in missing:
        monkeypatch.delenv(name)
    tracking.report_end(tmp_path, state="finished", step=2, metrics={})
    assert count(tmp_path / "tracked") == 1


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch, tmp_path / "nowhere.conf")
    tracking.report_end(tmp_path, state="finished", step=2, metrics={})
    said = capsys.readouterr().err
    assert "the end of the run was not reported to TORCHX_TRACKERS=fsspec: FileNotFoundError" in said
    assert said.count("\n") == 1


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """Sets the environment that the torchx command gives to a job."""
    monkeypatch.setenv(tracking.JOB, "local_cwd://torchx/job")
    monkeypatch.setenv(tracking.TRACKERS, "fsspec")
    monkeypatch.setenv("TORCHX_TRACKER_FSSPEC_CONFIG", str(config))
    # This function caches its result for the life of the process.
    AppRun.run_from_env.cache_clear()


def count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
