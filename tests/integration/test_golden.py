"""Training follows the recorded trajectory: a change of the numbers is a decision, never an accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import golden


@pytest.mark.integration
def test_quickstart_follows_the_golden_trajectory(tmp_path: Path) -> None:
    """Every loss of the first 50 steps, within the stored tolerances; `make golden` records anew."""
    stored = json.loads(golden.FILE.read_text())
    found = golden.trajectory(tmp_path)
    assert len(found) == len(stored["losses"]) == golden.STEPS
    for step, (expected, actual) in enumerate(zip(stored["losses"], found, strict=True), start=1):
        tolerance = stored["tolerance" if step <= stored["exact_steps"] else "tolerance_later"]
        assert actual == pytest.approx(expected, abs=tolerance, rel=0), f"step {step}"
    assert any(losses[2] > 0 for losses in found), "L_dense never set in"
