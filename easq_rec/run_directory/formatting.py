"""Numbers as text."""

from __future__ import annotations

import math

from easq_rec.evaluation.mean_interval import Estimate

NONE = "–"


def short(value: float | None) -> str:
    """Four significant digits; whole numbers with all of theirs."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def metric(value: float | None) -> str:
    """Four decimals below 10, as for metrics between 0 and 1; `short` for larger values."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.4f}" if abs(value) < 10 else short(value)


def signed(value: float | None, digits: int = 4) -> str:
    """A difference, with its sign."""
    return NONE if value is None or not math.isfinite(value) else f"{value:+.{digits}f}"


def estimate(value: Estimate, unit: str = "%") -> str:
    """A value with its interval, as `easq-rec study` prints it."""
    return value.text(unit, 1 if unit == "%" else 2)


def duration(seconds: float) -> str:
    """`41 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
