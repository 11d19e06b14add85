"""Fixtures for tests that run whole commands on a small world, as a user does."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from easq_rec.config import World
from easq_rec.config.recipes import recipe
from easq_rec.config.schema_file import schema_to_toml
from tests.conftest import Warm

REPOSITORY = Path(__file__).parents[2]

SMALL = (
    "--trainer.batch-size", "16", "--logging.every-steps", "1", "--logging.tensorboard", "False",
    "--evaluation.every-steps", "0", "--trainer.threads", "1", "--losses.warmup-steps", "5",
)  # fmt: skip


WORLD = World(requests=1_500, users=300, videos=500, density=500.0)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of 1,500 requests, with enough answers to form pairs in every batch."""
    from easq_rec.tools.simulation.world import generate

    directory = tmp_path_factory.mktemp("world") / "data"
    generate(WORLD, directory)
    return directory


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment variables with one thread per process, because several processes share the machine."""
    bin_dir = str(Path(sys.executable).parent)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{bin_dir}:{os.environ['PATH']}"}


Train = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def train(world: Path, warm: Warm) -> Train:
    """train(run_dir, *arguments, ranks=1): trains `quickstart` on the small world, under torchrun for several ranks.

    With L_dense, so that a loss of the main tower also reads the reference.
    """

    def call(run_dir: Path, *arguments: str, ranks: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
        launcher = warm.torchrun(ranks) if ranks > 1 else (warm.python,)
        command = ("easq_rec/train.py", "quickstart", "--data", str(world), "--run-dir", str(run_dir))
        return warm.run(*launcher, *command, *SMALL, "--losses.dense.weight", "0.3", *arguments, check=check)

    return call


@pytest.fixture(scope="session")
def call(warm: Warm) -> Call:
    """call(*arguments, code=0): runs the console command, which must exit with that code."""

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = warm.run(warm.python, "-m", "easq_rec.cli", *map(str, arguments), check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Warning" not in done.stderr and "Traceback" not in done.stderr, done.stderr
        return done

    return run


def metrics(run_dir: Path, split: str = "train") -> list[dict[str, float]]:
    """The lines of one split in a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="session")
def losses() -> Callable[[Path], list[tuple[float | None, ...]]]:
    """losses(run_dir): (step, each loss) of every logged step. A loss that the step did not compute is None."""

    def read(run_dir: Path) -> list[tuple[float | None, ...]]:
        names = ("step", "loss_main", "loss_satisfaction", "loss_dpo", "loss_dense", "loss_evidence", "loss_pointwise")
        return [tuple(line.get(name) for name in names) for line in metrics(run_dir)]

    return read


def write_schema(path: Path, rows: Mapping[str, int], admit_after: Mapping[str, int] | None = None) -> Path:
    """Writes the schema of `quickstart` with some tables as admitted ones, of so many rows."""
    found, after = recipe("quickstart").schema, admit_after or {}
    tables = tuple(
        replace(table, rows=rows[table.name], id_space="admitted", admit_after=after.get(table.name, 1))
        if table.name in rows
        else table
        for table in found.tables
    )
    path.write_text(schema_to_toml(replace(found, tables=tables)))
    return path


@pytest.fixture(scope="session")
def exported(train: Train, call: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, directory with one package), with tables of every id space. All test processes share them, since one
    compilation takes half a minute."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C++ compiler")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    shared.mkdir(exist_ok=True)
    run, packages = shared / "run", shared / "packages"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (packages / "current.json").exists():
            schema = write_schema(shared / "schema.toml", {"user": 129, "author": 33})
            train(run, "--schema", str(schema), "--trainer.max-steps", "20", "--optim.dense-lr", "0.01")
            done = call("export", "--run", run, "--output", packages)
            assert ": compiled\n" in done.stdout and "Traceback" not in done.stderr
    return run, packages
