"""Means with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

CONFIDENCE = 0.95
NORMAL = 1.96
"""Half the width of a 95% interval of a normal distribution, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured mean with its 95% interval."""

    value: float
    """NaN: no measurements."""
    low: float
    high: float
    """Ends of the 95% interval; infinite for a single measurement, whose spread is unknown."""
    count: int
    """Independent measurements (worlds, or answers)."""

    def text(self, unit: str = "%", digits: int = 1) -> str:
        """Text for tables: `+1.2% [-0.3, +2.7]`."""
        if math.isnan(self.value):
            return "not measured"
        known = math.isfinite(self.high - self.low)
        inside = f"{self.low:+.{digits}f}, {self.high:+.{digits}f}" if known else "unknown"
        return f"{self.value:+.{digits}f}{unit} [{inside}]"


def t_interval(values: Iterable[float]) -> Estimate:
    """Mean and Student's t interval of independent measurements; NaN values are ignored."""
    known = [value for value in values if not math.isnan(value)]
    count = len(known)
    if not count:
        return Estimate(value=math.nan, low=-math.inf, high=math.inf, count=0)
    mean = math.fsum(known) / count
    if count == 1:
        return Estimate(value=mean, low=-math.inf, high=math.inf, count=1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
    half = t_quantile(CONFIDENCE, count - 1) * deviation / math.sqrt(count)
    return Estimate(value=mean, low=mean - half, high=mean + half, count=count)


def t_quantile(confidence: float, degrees: int) -> float:
    """The value that |T| of Student's distribution exceeds with probability 1 - confidence."""
    assert 0 < confidence < 1 and degrees >= 1, (confidence, degrees)
    # With t = sqrt(degrees) tan(angle), the search for the quantile has a bounded range.
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_mass(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_mass(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle)): a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    first = 1 if degrees % 2 == 0 else 2
    term, total = 1.0 if first == 1 else cosine, 0.0
    for factor in range(first, degrees, 2):
        total += term
        term *= cosine**2 * factor / (factor + 1)
    if first == 1:
        return sine * total
    return 2 / math.pi * (angle + sine * total)
