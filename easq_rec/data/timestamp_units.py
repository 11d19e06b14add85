"""Detects timestamps that are not in milliseconds: read as milliseconds, they are far from the present."""

from __future__ import annotations

from datetime import UTC, datetime

PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLIEST_S, LATEST_S = 946_684_800, 4_102_444_800
"""The years 2000 to 2099 in unix time. The ranges of different units do not overlap."""


def time_unit(first: int, last: int) -> str | None:
    """The unit in which both times are in the years 2000 to 2099; None: no unit, so nothing is known."""
    for unit, scale in PER_SECOND.items():
        if EARLIEST_S * scale <= first and last < LATEST_S * scale:
            return unit
    return None


def unit_problem(column: str, first: int, last: int) -> str | None:
    """The error text for a millisecond column with these bounds; None: no error is known."""
    unit = time_unit(first, last)
    if unit in (None, "milliseconds"):
        return None
    factor = PER_SECOND["milliseconds"] / PER_SECOND[unit]
    remedy = f"multiply by {factor:,.0f}" if factor > 1 else f"divide by {1 / factor:,.0f}"
    span = f"{day(first, unit)} to {day(last, unit)}"
    return f"{column}: values from {first} to {last}, which are {unit} of {span}; expected milliseconds: {remedy}"


def day(time: int, unit: str = "milliseconds") -> str:
    """The UTC day of a point in time."""
    return datetime.fromtimestamp(time / PER_SECOND[unit], UTC).strftime("%Y-%m-%d")
