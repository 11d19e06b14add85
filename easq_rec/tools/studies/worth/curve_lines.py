"""The learning curves as lines of a figure, for the study's PNG and for reports. No torch import: reports read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.figures.lines import Line
from easq_rec.tools.studies.worth.questions import CURVES

EXPLAINED = "log loss explained, %"
CONTINUED = "both, continued"


def curve_lines(
    levels: Mapping[str, Sequence[tuple[float, Estimate]]], gains: Mapping[str, Sequence[tuple[int, Estimate]]]
) -> list[Line]:
    """The measured curves, and that of `both` continued."""
    lines = []
    for style, source in enumerate(CURVES):
        points = levels.get(source, [])
        if points:
            lines.append(
                Line(
                    name=source,
                    style=style,
                    points=[(answers, one.value) for answers, one in points],
                    estimates=[one for _, one in points],
                )
            )
    last = levels.get("both", [])
    more = [(factor, gain) for factor, gain in gains.get("both", []) if math.isfinite(gain.value)]
    if last and more:
        answers, end = last[-1]
        continued = [(answers * factor, shifted(gain, end.value)) for factor, gain in more]
        lines.append(
            Line(
                name=CONTINUED,
                style=len(CURVES),
                points=[(x, one.value) for x, one in continued],
                estimates=[one for _, one in continued],
            )
        )
    return lines


def shifted(estimate: Estimate, by: float) -> Estimate:
    """An estimate of a difference, as that of the sum."""
    return Estimate(value=estimate.value + by, low=estimate.low + by, high=estimate.high + by, count=estimate.count)


def unsigned(estimate: Estimate, digits: int) -> str:
    """`0.712 [0.690, 0.733]`."""
    if math.isnan(estimate.value):
        return "not measured"
    if not math.isfinite(estimate.high - estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
