"""How closely numbers of candidates go with their outcomes: too closely, and they are a consequence of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from easq_rec.data.columns import Array


class Links:
    """Pearson's correlation of every number with every outcome, of sign(x) log(1 + |x|): tails are long."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Array] = {}
        """By (number, outcome): count, sums of x, y, x*x, y*y, x*y."""

    def add(self, numbers: Mapping[str, Array], outcomes: Mapping[str, Array]) -> None:
        """Takes in columns of equal length; a value that is not finite leaves the column out."""
        scaled = {name: np.copysign(np.log1p(np.abs(x, dtype=np.float64)), x) for name, x in numbers.items()}
        with np.errstate(invalid="ignore"):
            scaled = {name: x for name, x in scaled.items() if np.isfinite(x.sum())}
        if not scaled or not outcomes:
            return
        columns = [*scaled.values(), *(y.astype(np.float64) for y in outcomes.values())]
        matrix = np.stack([np.ones(len(columns[0])), *columns])
        products = matrix @ matrix.T
        for i, number in enumerate(scaled, start=1):
            for j, outcome in enumerate(outcomes, start=1 + len(scaled)):
                pairs = ((0, 0), (0, i), (0, j), (i, i), (j, j), (i, j))
                sums = np.array([products[pair] for pair in pairs])
                self._sums[number, outcome] = self._sums.get((number, outcome), 0.0) + sums

    def strongest(self, number: str) -> tuple[str, float] | None:
        """(outcome, correlation) of the largest absolute value; None: there is none to be known."""
        found = {}
        for (name, outcome), (n, x, y, xx, yy, xy) in self._sums.items():
            spread = (n * xx - x * x) * (n * yy - y * y)
            if name == number and spread > 1e-9 * n**4:
                found[outcome] = float((n * xy - x * y) / np.sqrt(spread))
        return max(found.items(), key=lambda item: abs(item[1])) if found else None
