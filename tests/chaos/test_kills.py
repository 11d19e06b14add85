"""kill -9 at random moments, of a worker or of the whole job, also during a save: the run ends like an undisturbed one.

The long form is `benchmarks/chaos.py`, whose machinery this is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import MOMENTS, in_plain_terms, kill_runs


@pytest.mark.integration
def test_a_run_that_is_killed_ends_as_one_that_is_left_alone(tmp_path: Path) -> None:
    runs, differences = kill_runs(tmp_path, ranks=2, kills=4, seed=1)
    assert not differences
    assert sum(one.total for one in runs) == 4 and not any(one.hung for one in runs)
    moments = {name.split(", ")[1] for one in runs for name in one.kills}
    assert moments == set(MOMENTS), "a kill of every kind"


def test_what_is_left_counts_and_not_when_it_was_dealt() -> None:
    """A resumed run deals anew what is left: the same requests to the same ranks."""

    def progress(dealt: list[list[int]], delivered: int) -> dict[str, object]:
        position = {"epoch": 0, "dealt": dealt, "delivered": delivered, "ranks": 2, "spread": True}
        return {"step": 30, "loader": {"position": position, "admitted": 83}}

    whole, resumed = progress([[0, 479]], 160), progress([[72, 239], [311, 479]], 16)
    assert in_plain_terms(whole) == in_plain_terms(resumed)
    assert in_plain_terms(progress([[0, 479]], 479)) == in_plain_terms(progress([[72, 239], [311, 479]], 335))
    assert in_plain_terms(whole) != in_plain_terms(progress([[72, 239], [311, 479]], 32))
    assert in_plain_terms(whole) != in_plain_terms(progress([[64, 239], [311, 479]], 16))
