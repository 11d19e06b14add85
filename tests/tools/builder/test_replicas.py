"""Replicas of a build: a run with TorchX, and how the partitions of a lost replica are built."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tools.builder.logs import build_of, config, random_log, read_rows, run_build, write_log
from tests.tools.builder.test_partitions import COMMAND, TOML, in_order
from torchx_components import easq

REPOSITORY = Path(__file__).parents[3]
TORCHX = Path(sys.executable).with_name("torchx")


@pytest.mark.integration
def test_three_replicas_build_the_same_rows_as_one_process(tmp_path: Path) -> None:
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
    found = in_order(read_rows(tmp_path / "all of it" / "requests"))
    values = tomllib.loads(TOML)
    assert found == in_order(read_rows(run_build(tmp_path, values, out="one") / "requests"))
    assert len(found) > 20


def test_a_replica_builds_the_partitions_of_lost_replicas(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(41))
    from easq_rec.tools.builder.publish import run
    from easq_rec.tools.builder.scatter import Partition

    said: list[str] = []
    how = {"base": tmp_path, "out": tmp_path / "out", "progress": said.append}
    text = run(build_of(config()), partition=Partition(index=1, of=3), shared=True, **how)
    assert text is not None and "requests" in text
    done = [line.split(":")[0] for line in said if ": requests written" in line]
    assert done == ["part-2-of-3", "part-3-of-3", "part-1-of-3"]
    one = run_build(tmp_path, config(), out="one")
    assert in_order(read_rows(tmp_path / "out" / "requests")) == in_order(read_rows(one / "requests"))
    assert not (tmp_path / ".out.build").exists()


def test_a_replica_waits_for_a_partition_that_another_is_building(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(42))
    (tmp_path / "logs.toml").write_text(TOML)
    area = tmp_path / ".out.build"
    area.mkdir()
    arguments = ["--config", str(tmp_path / "logs.toml"), "--out", str(tmp_path / "out"), "--partition", "1/2"]
    with (area / "part-2-of-2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [*COMMAND, *arguments, "--shared"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=8)
        assert (area / "part-1-of-2").is_dir() and not (area / "part-2-of-2").exists()
    # The other replica has ended without building its partition.
    output, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and "train on it with --data" in output
    assert (tmp_path / "out" / "requests").is_dir()
