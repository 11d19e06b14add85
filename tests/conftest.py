"""Commands in processes that tests start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.warm import REPOSITORY, warm_python


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: make test-slow"))


def pytest_configure() -> None:
    """Takes the environment's programs off PATH: `make test` activates nothing, so a test must not need it."""
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != programs)


@dataclass(frozen=True)
class Warm:
    """How a test starts a command without waiting for imports; see `tests.warm`."""

    python: str
    """Executable in the place of `sys.executable`."""
    environment: dict[str, str]
    """One thread per process. Workers of torchrun start without imports, too."""

    def run(
        self, *command: str, directory: Path = REPOSITORY, timeout: float = 300, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command with its output captured; fails if the command fails."""
        done = subprocess.run(
            command,
            cwd=directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, said
        return done

    def programs(self, folder: Path) -> Path:
        """Makes `folder` with a program `easq-rec` in it, for scripts that call it, and returns it."""
        folder.mkdir()
        program = folder / "easq-rec"
        program.write_text(f'#!/bin/sh\nexec {self.python} -m easq_rec.cli "$@"\n')
        program.chmod(0o755)
        return folder

    def torchrun(self, ranks: int, *options: str) -> tuple[str, ...]:
        """The words of a command up to its script."""
        return (self.python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *options)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    outside = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = {**outside, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with warm_python(environment) as python:
        yield Warm(python, {**environment, "PYTHON_EXEC": python})
