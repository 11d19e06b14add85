"""The two scores of a candidate in a synthetic world, and the thresholds that make grades and answers of one of them.

Shapes: R requests, C candidates per request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from easq_rec.data import exact
from easq_rec.tools.simulation.latents import Float

GRADE_QUANTILES = (0.14, 0.34, 0.60, 0.83)
"""Shares of impressions below grade 1, 2, 3 and 4 of the true satisfaction."""
ANSWER_QUANTILES = (0.23, 0.50)
"""Shares of answers that are dissatisfied, and dissatisfied or uncertain."""


class LatentScores(NamedTuple):
    """The two utilities of users [R] and their candidates [R, C]."""

    engage: Float
    """Logit of a long view."""
    satisfy: Float
    """Mean 0 and variance 1 under the logging policy."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where satisfaction is cut."""

    grades: tuple[float, ...]
    """Thresholds of the satisfaction between the grades 0..4."""
    answers: tuple[float, ...]
    """Thresholds of the noisy satisfaction between the answers of `THREE_ANSWERS`."""

    @staticmethod
    def of(rng: np.random.Generator, satisfy: Float, triggered: Float, noise: float) -> Thresholds:
        """The thresholds that give the wanted shares in a sample of the logging policy.

        Args:
            satisfy: [R, C] satisfaction.
            triggered: [R, C] probability of triggering the questionnaire. Only triggered impressions are answered, so
                this is their weight in the thresholds of the answers.
            noise: standard deviation of an answer's noise.
        """
        flat = satisfy.ravel()
        noisy = flat + noise * exact.normal(rng, *flat.shape)
        order = np.argsort(noisy, kind="stable")
        mass = np.cumsum(triggered.ravel()[order])
        answers = noisy[order][np.searchsorted(mass, np.array(ANSWER_QUANTILES) * mass[-1])]
        return Thresholds(
            grades=tuple(np.quantile(flat, GRADE_QUANTILES).tolist()),
            answers=tuple(answers.tolist()),
        )
