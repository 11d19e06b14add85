"""Training follows the recorded trajectory, so that the numbers never change by accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import golden


@pytest.mark.integration
def test_quickstart_starts_from_the_golden_data_and_weights(tmp_path: Path) -> None:
    """Data, order, replayed answers and initial weights are bit-identical on any CPU. `make golden` records them."""
    assert golden.digests(tmp_path) == json.loads(golden.FILE.read_text())["digests"]


@pytest.mark.integration
@pytest.mark.parametrize("cpu", ["native", "default"])
def test_quickstart_follows_the_golden_trajectory(cpu: str, tmp_path: Path) -> None:
    """Every loss of the first 50 steps is within the tolerances.

    This holds on this CPU and on an imitated CPU with fewer instruction sets.
    """
    stored = json.loads(golden.FILE.read_text())
    found = golden.trajectory(tmp_path, cpu=cpu)
    assert len(found) == len(stored["losses"]) == golden.STEPS
    for step, (expected, actual) in enumerate(zip(stored["losses"], found, strict=True), start=1):
        tolerance = golden.TOLERANCE if step <= golden.EXACT_STEPS else golden.TOLERANCE_LATER
        assert [value is None for value in actual] == [value is None for value in expected], f"step {step}"
        given, stored_values = ([value for value in values if value is not None] for values in (actual, expected))
        assert given == pytest.approx(stored_values, abs=tolerance, rel=0), f"step {step}"
    dense, evidence = ([step[index] for step in found if step[index] is not None] for index in (3, 4))
    assert len(dense) == len(evidence) == golden.STEPS // 2, "every other step is aligned"
    assert any(loss > 0 for loss in dense), "L_dense is 0 in every step"
    assert any(loss < 0 for loss in evidence), "L_evidence is not negative in any step"
