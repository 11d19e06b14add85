"""Rates of groups with few observations, shrunk to an expected rate (empirical Bayes).

A group's unknown rate has a beta distribution around its expected rate, and what happened is binomial. How strong that
prior is follows from the groups themselves: from how much more their counts vary than chance alone would make them. So
no pseudo count is chosen by hand. Observations may also lie between 0 and 1; they then vary less than binary ones.

Legend: G groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_STRENGTH = 1.0
"""Least strength of a prior, in observations: rates stay between 0 and 1, and one observation moves a rate at most
halfway."""


def shrunk(happened_G: Floats, shown_G: Floats, expected_G: Floats, *, spread: float = 1.0) -> Floats:
    """Posterior mean rate of each group, (G,); the expected rate for a group without observations.

    Args:
        happened_G, shown_G: number of successes and of observations.
        expected_G: rate that each group is expected to have, from 0 to 1.
        spread: see `prior_strength`.
    """
    return posterior(happened_G, shown_G, expected_G, prior_strength(happened_G, shown_G, expected_G, spread=spread))


def posterior(happened_G: Floats, shown_G: Floats, expected_G: Floats, strength: float) -> Floats:
    """`shrunk` with a given strength of the prior, in observations; infinite: the expected rates."""
    if np.isinf(strength):
        return expected_G
    return (happened_G + strength * expected_G) / (shown_G + strength)


def prior_strength(happened_G: Floats, shown_G: Floats, expected_G: Floats, *, spread: float = 1.0) -> float:
    """Strength of the beta prior in observations, by moments; infinite if rates do not differ from the expected ones.

    Let k of n happen in a group of expected rate m, and let s be the strength. Then the mean of (k - n m)² is
    n m (1 - m) (1 + (n - 1) / (1 + s)). Summed over the groups, this gives s.

    Args:
        spread: variance of an observation, in units of m (1 - m): 1 if it is 0 or 1.
    """
    binomial_G = spread * shown_G * expected_G * (1 - expected_G)
    excess = float(((happened_G - shown_G * expected_G) ** 2 - binomial_G).sum())
    possible = float((binomial_G * (shown_G - 1)).sum())
    if possible <= 0 or excess <= 0:
        return np.inf
    return max(possible / excess - 1, LEAST_STRENGTH)
