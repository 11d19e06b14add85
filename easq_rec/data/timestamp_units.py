"""Whether a point in time is in milliseconds: in another unit it lies tens of thousands of years away."""

from __future__ import annotations

from datetime import UTC, datetime

PER_SECOND = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLIEST_S, LATEST_S = 946_684_800, 4_102_444_800
"""The years 2000 to 2099 in unix time. In no two units do they share a number."""


def time_unit(first: int, last: int) -> str | None:
    """The unit in which both are points in time of the years 2000 to 2099; None: there is none, so nothing is known."""
    for unit, scale in PER_SECOND.items():
        if EARLIEST_S * scale <= first and last < LATEST_S * scale:
            return unit
    return None


def unit_problem(column: str, first: int, last: int) -> str | None:
    """What is wrong with a column of milliseconds between these two values; None: nothing, or nothing that is known."""
    unit = time_unit(first, last)
    if unit in (None, "milliseconds"):
        return None
    factor = PER_SECOND["milliseconds"] / PER_SECOND[unit]
    remedy = f"multiply by {factor:,.0f}" if factor > 1 else f"divide by {1 / factor:,.0f}"
    span = f"{day(first, unit)} to {day(last, unit)}"
    return f"{column}: lies between {first} and {last}, which are {unit} of {span}; expected milliseconds: {remedy}"


def day(time: int, unit: str = "milliseconds") -> str:
    """The UTC day of a point in time."""
    return datetime.fromtimestamp(time / PER_SECOND[unit], UTC).strftime("%Y-%m-%d")
