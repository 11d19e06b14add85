"""Continuous training that is killed, on one rank and on two, trains on every request exactly once.

`benchmarks/chaos_follow.py` is the long version of this test and provides its functions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.chaos_follow import WORLD, cut, elastic, surviving
from easq_rec.tools.simulation.world import generate
from tests.conftest import Warm


@pytest.mark.integration
def test_killed_training_follows_every_request_once(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_EXEC", warm.python)
    generate(WORLD, tmp_path / "world")
    cut(tmp_path / "world", tmp_path / "complete")
    (outcome,) = elastic(tmp_path, tmp_path / "complete", kills=3, seed=1)
    assert outcome.kills.total() == 3 and set(outcome.starts) == {1, 2}
    assert (outcome.lost, outcome.repeated) == (0, 0)


def test_what_a_later_start_takes_back_does_not_count(tmp_path: Path) -> None:
    """Of two ranks: the first start made steps 1 to 3, the second began at step 1."""
    lines = [
        {"time": 1.0, "start": 0},
        *({"time": 1.0 + step, "step": step, "ids": [10 * step]} for step in (1, 2, 3)),
        *({"time": 1.5 + step, "step": step, "ids": [10 * step + 1]} for step in (1, 2)),
        {"time": 6.0, "start": 1},
        {"time": 7.0, "step": 2, "ids": [20, 21]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"time": 8.0, "st')
    kept, taken_back = surviving(tmp_path)
    assert sorted(kept) == [10, 11, 20, 21] and taken_back == 3
