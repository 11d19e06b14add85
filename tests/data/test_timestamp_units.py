"""Timestamps in a unit other than milliseconds are recognised, without false alarms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from easq_rec.data.dataset import split
from easq_rec.data.timestamp_units import day, time_unit, unit_problem
from tests.data.builders import make_rows, write_dataset

NOON = 1_717_243_200
"""2024-06-01 12:00 UTC, in seconds."""


@pytest.mark.parametrize(
    ("scale", "unit", "remedy"),
    [
        (1, "seconds", "multiply by 1,000"),
        (10**6, "microseconds", "divide by 1,000"),
        (10**9, "nanoseconds", "divide by 1,000,000"),
    ],
)
def test_another_unit_is_named_with_its_remedy(tmp_path: Path, scale: int, unit: str, remedy: str) -> None:
    first, last = NOON * scale, (NOON + 86_400) * scale
    problem = unit_problem("timestamp_ms", first, last)
    expected = f"which are {unit} of 2024-06-01 to 2024-06-02; expected milliseconds: {remedy}"
    assert problem == f"timestamp_ms: values from {first} to {last}, {expected}"
    rows = make_rows(np.random.default_rng(0), 3, start_ms=first)
    folder = write_dataset(tmp_path, rows)
    with pytest.raises(ValueError, match=f"^{folder}, column timestamp_ms: values from .* which are {unit} of 2024"):
        split(folder, 0.2)


def test_timestamps_of_mixed_units_raise_no_error(tmp_path: Path) -> None:
    """The error requires that a whole dataset has another unit: a few broken timestamps do not indicate one."""
    rows = make_rows(np.random.default_rng(0), 3, start_ms=NOON)
    rows[-1]["timestamp_ms"] = NOON * 1_000
    split(write_dataset(tmp_path, rows), 0.2)


@pytest.mark.parametrize(("first", "last"), [(1_000_000, 2_000_000), (0, NOON), (NOON, NOON * 1_000), (-5, 5)])
def test_small_numbers_and_mixtures_have_no_known_unit(first: int, last: int) -> None:
    assert time_unit(first, last) is None
    assert unit_problem("timestamp_ms", first, last) is None


def test_milliseconds_are_accepted() -> None:
    assert time_unit(NOON * 1_000, NOON * 1_000 + 1) == "milliseconds"
    assert unit_problem("timestamp_ms", NOON * 1_000, NOON * 1_000 + 1) is None
    assert day(NOON * 1_000) == "2024-06-01"
