"""The TorchX component: one replica per partition, described by TorchX itself and really run."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from torchx.specs import Role
from torchx.specs.builders import materialize_appdef
from torchx.specs.file_linter import validate

from tests.data.builder.logs import random_log, read_rows, run_build, write_log
from tests.data.builder.test_partitions import TOML, in_order
from torchx_components import build
from torchx_components.dist import LaunchError

REPOSITORY = Path(__file__).parents[3]
TORCHX = Path(sys.executable).with_name("torchx")


def role(*arguments: str) -> Role:
    (role,) = materialize_appdef(build.partitions, list(arguments)).roles
    return role


def test_torchx_understands_the_module() -> None:
    assert validate(str(build.__file__), "partitions") == []
    for name, _ in inspect.getmembers(build, inspect.isfunction):
        validate(str(build.__file__), name)  # annotations that it does not know would hide all components
    described = inspect.getdoc(build.partitions)
    assert described is not None
    for parameter in inspect.signature(build.partitions).parameters:
        assert f"\n    {parameter}: " in described, parameter
    entries = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entries["torchx.components"]["build"] == build.__name__


def test_a_replica_builds_one_partition() -> None:
    job = role("--config", "a $b.toml", "--out", "/logs", "--n", "4", "--cpu", "3", "--engine_memMB", "512")
    assert (job.num_replicas, job.resource.cpu) == (4, 3)
    (_, command) = job.args
    assert "--config 'a $$b.toml' --out /logs --threads 3 --memory-mb 512" in command
    assert command.endswith("--partition $$(( ${replica_id} + 1 ))/4")


def test_impossible_jobs_are_refused() -> None:
    with pytest.raises(LaunchError, match="--n 0 is not allowed: at least 1"):
        role("--config", "a", "--out", "b", "--n", "0")
    with pytest.raises(LaunchError, match="-h nothing is not allowed"):
        role("--config", "a", "--out", "b", "-h", "nothing")


@pytest.mark.integration
def test_three_replicas_build_what_one_process_builds(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(40))
    (tmp_path / "logs.toml").write_text(TOML)
    (tmp_path / ".torchxconfig").write_text((REPOSITORY / ".torchxconfig").read_text())
    component = f"{build.__file__}:partitions"
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
