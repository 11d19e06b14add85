"""A run whose worker or whole job is killed at random moments, also during a save, ends like an uninterrupted run.

The kills use SIGKILL. `benchmarks/chaos.py` is the long version of this test and provides its functions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import MOMENTS, in_plain_terms, kill_runs
from tests.conftest import Warm


@pytest.mark.integration
def test_killed_run_ends_like_an_uninterrupted_run(tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_EXEC", warm.python)
    runs, differences = kill_runs(tmp_path, ranks=2, kills=4, seed=1)
    assert not differences
    assert sum(one.total for one in runs) == 4 and not any(one.hung for one in runs)
    moments = {name.split(", ")[1] for one in runs for name in one.kills}
    assert moments == set(MOMENTS), "kills at every kind of moment"


def test_progress_is_equal_if_the_remaining_requests_are_equal() -> None:
    """A resumed run distributes the remaining requests again, and each rank gets the same requests as before."""

    def progress(dealt: list[list[int]], delivered: int) -> dict[str, object]:
        position = {"epoch": 0, "dealt": dealt, "delivered": delivered, "ranks": 2, "spread": True}
        return {"step": 30, "loader": {"position": position, "admitted": 83}}

    whole, resumed = progress([[0, 479]], 160), progress([[72, 239], [311, 479]], 16)
    assert in_plain_terms(whole) == in_plain_terms(resumed)
    assert in_plain_terms(progress([[0, 479]], 479)) == in_plain_terms(progress([[72, 239], [311, 479]], 335))
    assert in_plain_terms(whole) != in_plain_terms(progress([[72, 239], [311, 479]], 32))
    assert in_plain_terms(whole) != in_plain_terms(progress([[64, 239], [311, 479]], 16))
