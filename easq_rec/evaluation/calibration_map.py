"""Maps from predicted to calibrated outcomes. They are plain data, so that a file can hold them.

Legend: N candidates, K knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CalibrationMethod = Literal["temperature", "isotonic"]


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """logit -> scale x logit + bias (Platt 1999; a temperature is 1 / scale). The logarithm, for an amount."""

    scale: float
    """0 or more, so that the order of the candidates is kept."""
    bias: float

    def apply(self, logit_N: Floats, *, amount: bool) -> Floats:
        """Calibrated logits, (N,)."""
        return self.scale * logit_N + self.bias


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """Probability -> probability (of an amount: expectation -> expectation), linear between knots and constant beyond
    the first and the last. It never falls, but candidates may become equal."""

    at: tuple[float, ...]
    """Predictions, ascending, (K,)."""
    to: tuple[float, ...]
    """Calibrated values of these predictions, more than 0 (and less than 1 for a probability), (K,)."""

    def apply(self, logit_N: Floats, *, amount: bool) -> Floats:
        """Calibrated logits, (N,)."""
        value_N = np.exp(logit_N) if amount else (1 + np.tanh(logit_N / 2)) / 2
        value_N = np.interp(value_N, self.at, self.to)
        return np.log(value_N) if amount else np.log(value_N) - np.log1p(-value_N)


OutcomeMap = Temperature | Isotonic
