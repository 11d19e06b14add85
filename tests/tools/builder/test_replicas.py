"""Processes that share a build: with TorchX, at the same time, and after one of them is lost."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tools.builder.logs import random_log, read_rows, run_build, write_log
from torchx_components import easq

COMMAND = [sys.executable, "-m", "easq_rec.cli", "data", "build"]
REPOSITORY = Path(__file__).parents[3]
TORCHX = Path(sys.executable).with_name("torchx")

TOML = """
max_bad_share = 1.0
[impressions]
path = "impressions.parquet"
[impressions.columns]
user_id = "uid"
video_id = "vid"
timestamp = "at"
watch = "watched"
request_id = "rid"
[impressions.outcomes]
like = "liked"
rate = { column = "rate", type = "float" }
[impressions.features]
slot = "slot"
[videos]
path = "videos.parquet"
history = ["author_id"]
[videos.columns]
video_id = "vid"
duration = "length"
[videos.features]
author_id = "maker"
"""


def command(folder: Path, *options: str) -> list[str]:
    (folder / "logs.toml").write_text(TOML)
    return [*COMMAND, "--config", str(folder / "logs.toml"), "--out", str(folder / "out"), *options]


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.parquet")}


@pytest.mark.integration
def test_three_replicas_write_the_files_of_one_process(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(40))
    (tmp_path / "logs.toml").write_text(TOML)
    (tmp_path / ".torchxconfig").write_text((REPOSITORY / ".torchxconfig").read_text())
    component = f"{easq.__file__}:build"
    options = ["--config", "logs.toml", "--out", "all of it", "--n", "3"]
    run = subprocess.run(
        [str(TORCHX), "run", "-s", "local_cwd", component, *options],
        cwd=tmp_path,
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    one = run_build(tmp_path, tomllib.loads(TOML), out="one")
    assert contents(tmp_path / "all of it") == contents(one)
    assert len(read_rows(one / "requests")) > 20
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".all")]


def test_processes_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(15))
    asked = command(tmp_path, "--shared", "--threads", "1")
    how = {"cwd": REPOSITORY, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(asked, **how) for _ in range(3)]  # type: ignore[call-overload]
    ends = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, _, code in ends] == [0, 0, 0], ends
    done = [line for _, said, _ in ends for line in said.splitlines() if ", of " in line]
    # Nothing is done twice: a unit is a line of one process.
    assert len(set(done)) == len(done) == 6
    assert all("train on it with --data" in said for said, _, _ in ends)
    assert contents(tmp_path / "out") == contents(run_build(tmp_path, tomllib.loads(TOML), out="one"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_process_waits_for_a_unit_of_another(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(42))
    asked = command(tmp_path, "--shared")
    with subprocess.Popen([sys.executable, "-c", HOLDING, *asked[3:]], cwd=REPOSITORY, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"held\n"
        with subprocess.Popen(asked, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(timeout=8)
            assert not (tmp_path / "out").exists()
            first.kill()
            # The first process has ended without finishing its unit.
            output, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "train on it with --data" in output
    assert read_rows(tmp_path / "out" / "requests")


HOLDING = """
import sys, time
from easq_rec.cli import main
from easq_rec.tools.builder import stages

def hold(*arguments):
    print("held", flush=True)
    time.sleep(600)

stages.BuildStages._bucket = hold
main.main(sys.argv[1:])
"""


def test_one_process_builds_unless_the_work_is_shared(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(20))
    area = tmp_path / ".out.build"
    area.mkdir()
    with (area / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command(tmp_path), cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "is being built by another process: wait for it, or give both of them --shared" in done.stderr
        assert "Traceback" not in done.stderr
    with (area / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        (area / "buckets.json").write_text(json.dumps({"identity": "another", "buckets": 1}))
        done = subprocess.run(
            command(tmp_path, "--shared"), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "by other processes from another config or log" in done.stderr
    assert read_rows(run_build(tmp_path, tomllib.loads(TOML)) / "requests")
