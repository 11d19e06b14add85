"""Collectives through shared memory find, bit for bit, what gloo finds over TCP. On two and four real ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easq_rec.training.host_group import IN_FLIGHT
from tests.distributed.worker_host_group import CALLS

REPOSITORY = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker_host_group.py")


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_equal_gloo(tmp_path: Path, ranks: int) -> None:
    """Sums that are no whole numbers are those of a loop over the ranks."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks))
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    for rank in range(ranks):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["wrong"] == []
        assert sum(found["made"].values()) == CALLS and min(found["made"].values()) > CALLS / 5
        assert found["open"] > IN_FLIGHT
        assert all(found["others"].values()), found["others"]
