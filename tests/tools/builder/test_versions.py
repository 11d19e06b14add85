"""As-of lookups, joint codes and ranges, compared with loops over rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.tools.builder.versions import NONE, Versions, joint_codes, ragged

KEYS = st.one_of(st.integers(-3, 6), st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63)]))
ROWS = st.lists(st.tuples(KEYS, st.integers(-5, 5)), max_size=20)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, wanted=ROWS)
def test_find_returns_the_last_version_at_or_before_a_time(
    rows: list[tuple[int, int]], wanted: list[tuple[int, int]]
) -> None:
    versions = Versions(ints([key for key, _ in rows]), ints([time for _, time in rows]))
    found = versions.find(ints([key for key, _ in wanted]), ints([time for _, time in wanted]))
    for (key, time), row in zip(wanted, found.tolist(), strict=True):
        before = [(t, n) for n, (k, t) in enumerate(rows) if k == key and t <= time]
        assert row == (max(before)[1] if before else NONE)
    assert versions.has(ints([key for key, _ in wanted])).tolist() == [
        any(k == key for k, _ in rows) for key, _ in wanted
    ]
    hidden = [n for n, row in enumerate(rows) if row in rows[n + 1 :]]
    assert versions.superseded.tolist() == hidden


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(KEYS, max_size=20), wanted=st.lists(KEYS, max_size=20))
def test_static_rows_are_valid_at_all_times(keys: list[int], wanted: list[int]) -> None:
    found = Versions(ints(keys)).find(ints(wanted)).tolist()
    assert found == [max((n for n, k in enumerate(keys) if k == key), default=NONE) for key in wanted]


@settings(max_examples=100, deadline=None)
@given(left=ROWS, right=ROWS)
def test_joint_codes_are_equal_exactly_where_rows_are_equal(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    columns = [[ints([row[n] for row in rows]) for n in (0, 1)] for rows in (left, right)]
    codes = np.concatenate(joint_codes(columns[0], columns[1])).tolist()
    rows = left + right
    assert [[a == b for b in codes] for a in codes] == [[a == b for b in rows] for a in rows]


def test_ragged_concatenates_ranges() -> None:
    assert ragged(ints([5, 0, 9]), ints([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ragged(ints([]), ints([])).tolist() == []
