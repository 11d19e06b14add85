"""Runs of a user's requests equal a loop over users, in a window whose order is otherwise that of the shuffle."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.data.user_runs import bring_together

WINDOWS = st.lists(st.tuples(st.sampled_from([1, -5, 2**62]), st.integers(0, 3), st.booleans()), max_size=14)
"""(user, time, whether the row is in quarantine) of every row of a window."""


def loop(rows: list[int], user: list[int], time: list[int], longest: int) -> list[int]:
    """The order, computed from the definition."""
    runs: dict[int, list[int]] = {}
    """The rows of each run, by the run's place in the sequence."""
    for owner in set(user):
        mine = sorted((time[row], row) for row in rows if row >= 0 and user[row] == owner)
        for begin in range(0, len(mine), longest):
            run = [row for _, row in mine[begin : begin + longest]]
            runs[rows.index(run[0])] = run
    for place, row in enumerate(rows):
        if row < 0:
            runs[place] = [-1]
    return list(itertools.chain.from_iterable(runs[place] for place in sorted(runs)))


@given(window=WINDOWS, longest=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_runs_equal_a_loop_over_users(window: list[tuple[int, int, bool]], longest: int, seed: int) -> None:
    good = [(user, time) for user, time, bad in window if not bad]
    rows = np.random.default_rng(seed).permutation(
        np.array([*range(len(good)), *[-1] * (len(window) - len(good))], int)
    )
    user, time = (np.array([row[k] for row in good], dtype=np.int64) for k in range(2))
    found = bring_together(rows.astype(np.int64), user, time, longest).tolist()
    assert found == loop(rows.tolist(), user.tolist(), time.tolist(), longest)
    assert Counter(found) == Counter(rows.tolist()), "the same rows, those in quarantine included"
    if longest == 1:
        assert found == rows.tolist()


def test_long_and_short_runs_are_spread_over_the_window() -> None:
    """A user with many requests is as likely to come early as one with a single request."""
    user = np.array([0] * 9 + list(range(1, 10)))
    time = np.arange(len(user))
    places = []
    for seed in range(400):
        rows = np.random.default_rng(seed).permutation(len(user))
        runs = [owner for owner, _ in itertools.groupby(user[bring_together(rows, user, time, 9)].tolist())]
        assert len(runs) == 10
        places.append(runs.index(0))
    # A uniform place among ten has mean 4.5 and a standard error of 0.14.
    assert abs(np.mean(places) - 4.5) < 0.5
