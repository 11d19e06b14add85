"""Rates shrunk by empirical Bayes: moments as in a loop, and the truth of simulated rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.answers.rates import LEAST_STRENGTH, prior_strength, shrunk

GROUPS = st.lists(
    st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.floats(0.01, 0.99))), max_size=8
)


@given(GROUPS)
@settings(max_examples=100, deadline=None)
def test_rates_equal_a_loop(groups: list[tuple[int, int, float]]) -> None:
    excess = possible = 0.0
    for happened, shown, expected in groups:
        chance = shown * expected * (1 - expected)
        excess += (happened - shown * expected) ** 2 - chance
        possible += chance * (shown - 1)
    columns = np.array(groups, np.float64).reshape(-1, 3).T
    found, strength = shrunk(*columns), prior_strength(*columns)
    if possible <= 0 or excess <= 0:
        assert strength == math.inf and found.tolist() == columns[2].tolist()
        return
    assert strength == pytest.approx(max(possible / excess - 1, LEAST_STRENGTH), rel=1e-6)
    for rate, (happened, shown, expected) in zip(found.tolist(), groups, strict=True):
        assert rate == pytest.approx((happened + strength * expected) / (shown + strength))
        # Between what was expected and what was seen, and never 0 or 1.
        assert 0 < rate < 1
        assert not shown or min(expected, happened / shown) - 1e-9 <= rate <= max(expected, happened / shown) + 1e-9


@pytest.mark.parametrize("strength", [3.0, 30.0])
def test_the_strength_of_simulated_rates_is_found(strength: float) -> None:
    """Rates are drawn around different expected rates. Shrunk rates are nearer to them than the counted ones."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(0.05, 0.4, 4_000)
    rate = rng.beta(strength * expected, strength * (1 - expected))
    shown = rng.integers(1, 40, 4_000)
    happened = rng.binomial(shown, rate).astype(np.float64)
    assert prior_strength(happened, shown.astype(np.float64), expected) == pytest.approx(strength, rel=0.15)
    guesses = (shrunk(happened, shown, expected), happened / shown, expected)
    errors = [np.square(guess - rate).mean() for guess in guesses]
    assert errors[0] < min(errors[1:])


def test_equal_rates_are_not_told_apart() -> None:
    """Counts that vary less than chance, or groups of one observation, say nothing about single groups."""
    shown, expected = np.full(50, 20.0), np.full(50, 0.25)
    assert shrunk(np.full(50, 5.0), shown, expected).tolist() == expected.tolist()
    assert prior_strength(np.array([1.0, 0.0]), np.ones(2), np.full(2, 0.5)) == math.inf


def test_observations_between_0_and_1_vary_less() -> None:
    """Answers of three classes: their variance, and not that of binary ones, is what chance alone makes."""
    rng = np.random.default_rng(1)
    strength, shown = 8.0, rng.integers(2, 30, 30_000)
    rate = rng.beta(strength / 2, strength / 2, 30_000)
    # An answer is the mean of two binary ones of its group.
    happened = rng.binomial(2 * shown, rate) / 2
    expected = np.full(30_000, 0.5)
    # Two binary ones of a group correlate by 1 / (1 + strength).
    spread = (1 + 1 / (1 + strength)) / 2
    found = prior_strength(happened, shown.astype(np.float64), expected, spread=spread)
    # The variance of group means is that of the rates, 0.25 / (1 + strength), in units of spread x 0.25.
    assert 1 / (1 + found) == pytest.approx(1 / (1 + strength) / spread, rel=0.05)
    assert prior_strength(happened, shown.astype(np.float64), expected) > 1.5 * found
