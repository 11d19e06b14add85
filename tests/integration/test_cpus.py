"""What a seed decides has the same bits on every kind of CPU: data, order, replay and initial weights."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

from tests import cpus, golden

CAPABILITY = {"avx2": "AVX2", "default": "DEFAULT"}
"""What torch calls the kinds of CPU that are imitated."""


def seeded(cpu: str) -> dict[str, Any]:
    """What `tests.seeded` finds on a kind of CPU."""
    command, environment = [sys.executable, "-m", "tests.seeded"], cpus.environment(cpu)
    done = subprocess.run(
        command, cwd=golden.REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="capabilities of x86 CPUs are taken away")
def test_every_cpu_makes_the_same_of_a_seed() -> None:
    native = seeded("native")
    assert set(native["digests"]) == {"data", "order", "replay", "dense", "tables", "experiment"}
    for cpu, capability in CAPABILITY.items():
        found = seeded(cpu)
        assert found["capability"] == capability, "the limits have no effect"
        assert found["digests"] == native["digests"], cpu
