"""kill -9 at random moments, of a worker or of the whole job, inside a save as well: the run ends as if left alone.

The long form is `benchmarks/chaos.py`, whose machinery this is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import MOMENTS, storm


@pytest.mark.integration
def test_a_run_that_is_killed_ends_as_one_that_is_left_alone(tmp_path: Path) -> None:
    storms, differences = storm(tmp_path, ranks=2, kills=4, seed=1)
    assert not differences
    assert sum(one.total for one in storms) == 4 and not any(one.hung for one in storms)
    moments = {name.split(", ")[1] for one in storms for name in one.kills}
    assert moments == set(MOMENTS), "a kill of every kind"
