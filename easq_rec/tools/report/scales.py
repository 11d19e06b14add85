"""From values to places in a plot: scales, ticks, and series of few enough points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]

LABEL_WIDTH = 0.56
"""Width of a character relative to the size of its font, on average: a file has no way to measure text."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A range of values, laid onto a range of pixels."""

    low: float
    high: float
    """More than `low`."""
    start: float
    """Pixel of `low`; may lie beyond `end`, as the y of SVG does."""
    end: float
    logarithmic: bool = False
    """All values, and `low`, are more than 0."""

    def __call__(self, value: float) -> float:
        """The pixel of a value; one outside of the range lies at its end."""
        low, high, at = (_log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        share = min(max((at - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies within the range, but for rounding."""
        slack = 1e-9 * (abs(self.low) + abs(self.high))
        return self.low - slack <= value <= self.high + slack

    def ticks(self, most: int) -> list[float]:
        """Round values within the range, at most about `most`."""
        if not self.logarithmic:
            return linear_ticks(self.low, self.high, most)
        powers = range(math.floor(_log(self.low)), math.ceil(_log(self.high)) + 1)
        found = [value for power in powers if self.holds(value := 10.0**power)]
        if len(found) < 3:
            found = [value for power in powers for digit in (1, 2, 5) if self.holds(value := digit * 10.0**power)]
        return found[:: math.ceil(len(found) / most)] if found else []


def spread(values: Iterable[float], *, margin: float = 0.06, include: Iterable[float] = ()) -> tuple[float, float]:
    """(low, high) of an axis that holds all values, with a margin on both sides; never empty.

    Args:
        margin: relative to the range.
        include: further values that must lie on the axis; ones beyond it get no margin.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    around = (high - low) * margin or abs(high) * 0.1 or 1.0
    further = list(include)
    return min([low - around, *further]), max([high + around, *further])


def spread_of_intervals(
    values: Iterable[float], ends: Iterable[float], *, include: Iterable[float] = ()
) -> tuple[float, float]:
    """(low, high) of an axis that holds all values, and of their intervals what lies no further away than the values
    are from one another: a single wide interval, as two worlds leave it, would press all else together."""
    known = [value for value in [*values, *include] if math.isfinite(value)]
    bounds = [value for value in ends if math.isfinite(value)]
    if known and bounds and max(known) > min(known):
        reach = max(known) - min(known)
        bounds = [min(max(value, min(known) - reach), max(known) + reach) for value in bounds]
    return spread([*known, *bounds])


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from low to high, at most `most` where that is 2 or more."""
    assert high > low and most >= 2, (low, high, most)
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while True:
        for digit in (1, 2, 5, 10):
            first, last = math.ceil(low / (step * digit) - 1e-9), math.floor(high / (step * digit) + 1e-9)
            if last - first < most:
                # Adding 0.0 turns -0.0 into 0.0.
                return [round(index * step * digit, 12) + 0.0 for index in range(first, last + 1)]
        step *= 10


def tick_label(value: float) -> str:
    """Short: `0.25`, `12k`, `1e-05`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


def apart(
    values: Sequence[float], place: Callable[[float], float], label: Callable[[float], str], font: float
) -> list[float]:
    """Those of the values, in their order, whose labels do not run into the one before."""
    kept: list[float] = []
    free = -math.inf
    for value in sorted(values, key=place):
        half = text_width(label(value), font) / 2
        if place(value) - half > free:
            kept.append(value)
            free = place(value) + half + 0.5 * font
    return kept


def text_width(text: str, font: float) -> float:
    """Pixels, roughly."""
    return LABEL_WIDTH * font * len(text)


def fitted(text: str, width: float, font: float) -> str:
    """The text, cut where it is wider than so many pixels."""
    most = max(int(width / (LABEL_WIDTH * font)), 2)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points, which keep the course and its extremes: of every stretch its lowest and its highest.

    Args:
        points: by ascending x.
        most: at least 4.
    """
    assert most >= 4, most
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = (most - 2) // 2
    kept = [points[0]]
    for index in range(stretches):
        part = inner[index * len(inner) // stretches : (index + 1) * len(inner) // stretches]
        ends = {min(range(len(part)), key=lambda at: part[at][1]), max(range(len(part)), key=lambda at: part[at][1])}
        kept += [part[at] for at in sorted(ends)]
    return [*kept, points[-1]]


def chosen(count: int, most: int) -> list[int]:
    """At most `most` (2 or more) of the indices 0 to count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def _log(value: float) -> float:
    return math.log10(value)
