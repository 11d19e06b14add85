"""Data, order, replay and initial weights of a seed are bit-identical on every kind of CPU."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

from tests import cpus, golden

CAPABILITY = {"avx2": "AVX2", "default": "DEFAULT"}
"""Names that torch gives to the imitated kinds of CPU."""


def seeded(cpu: str) -> dict[str, Any]:
    """The output of `tests.seeded` on a kind of CPU."""
    command, environment = [sys.executable, "-m", "tests.seeded"], cpus.environment(cpu)
    done = subprocess.run(
        command, cwd=golden.REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="capabilities of x86 CPUs are taken away")
def test_seeded_results_are_bit_identical_on_every_cpu() -> None:
    native = seeded("native")
    assert set(native["digests"]) == {"data", "order", "replay", "dense", "tables", "experiment", "data_of_world_2"}
    for cpu, capability in CAPABILITY.items():
        found = seeded(cpu)
        assert found["capability"] == capability, "the limits have no effect"
        assert found["digests"] == native["digests"], cpu
