"""Weights of answers by the propensity of their pattern of outcomes: loops over impressions, and a simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from easq_rec.answers.propensity import Propensities, count_patterns
from easq_rec.answers.rates import shrunk

IMPRESSIONS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=60)
"""(answered, liked, followed) of triggered impressions."""


def happened(impressions: list[tuple[bool, ...]]) -> NDArray[np.bool_]:
    return np.array(impressions, bool).reshape(-1, 2)


@given(IMPRESSIONS, st.sampled_from([1.5, 10.0]))
@settings(max_examples=80, deadline=None)
def test_weights_equal_a_loop_over_impressions(impressions: list[tuple[bool, bool, bool]], most: float) -> None:
    told = [tuple(outcomes) for given, *outcomes in impressions if given]
    every = [tuple(outcomes) for _, *outcomes in impressions]
    found = Propensities(count_patterns(happened(told)), count_patterns(happened(every)), most=most)
    weights = found.weights(happened(every))
    assert weights.dtype == np.float32
    if not told:
        assert weights.tolist() == [1.0] * len(every)
        return
    patterns = sorted(set(every))
    overall = len(told) / len(every)
    answered, shown = ([float(some.count(pattern)) for pattern in patterns] for some in (told, every))
    rates = shrunk(np.array(answered), np.array(shown), np.full(len(patterns), overall))
    expected = [min(max(overall / rates[patterns.index(pattern)], 1 / most), most) for pattern in every]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def simulated(count: int = 40_000) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """(satisfied, outcomes, answered): who liked a video answers five times as often."""
    rng = np.random.default_rng(0)
    satisfied = rng.random(count) < 0.5
    like = rng.random(count) < np.where(satisfied, 0.4, 0.1)
    answered = rng.random(count) < np.where(like, 0.25, 0.05)
    return satisfied, np.stack([like, np.zeros(count, bool)], axis=1), answered


def test_weighted_answers_have_the_share_of_all_impressions() -> None:
    satisfied, outcomes, answered = simulated()
    found = Propensities(count_patterns(outcomes[answered]), count_patterns(outcomes), most=10.0)
    weights = found.weights(outcomes[answered])
    plain, weighted = satisfied[answered].mean(), np.average(satisfied[answered], weights=weights)
    assert plain > 0.6 and weighted == pytest.approx(satisfied.mean(), abs=0.02)
    assert weights.mean() == pytest.approx(1.0, abs=0.02)


def test_answers_at_random_weigh_the_same() -> None:
    rng = np.random.default_rng(1)
    outcomes = rng.random((20_000, 3)) < 0.3
    answered = rng.random(20_000) < 0.05
    found = Propensities(count_patterns(outcomes[answered]), count_patterns(outcomes), most=10.0)
    assert np.abs(found.weights(outcomes) - 1).max() < 0.2


def test_answered_impressions_that_the_log_lacks_count_as_triggered() -> None:
    """Their pattern was always answered. Unknown patterns, and no answers at all, have weight 1."""
    like, nothing = np.array([[True, False]]), np.array([[False, False]])
    found = Propensities(count_patterns(np.repeat(like, 50, 0)), count_patterns(np.repeat(nothing, 950, 0)), most=10.0)
    assert float(found.weights(like)[0]) == pytest.approx(0.1) and float(found.weights(nothing)[0]) == 10.0
    assert found.weights(np.array([[True, True]])).tolist() == [1.0]
    assert Propensities({}, {}, most=2.0).weights(like).tolist() == [1.0]
    assert Propensities({}, count_patterns(like), most=2.0).weights(like).tolist() == [1.0]


def test_more_outcomes_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 62 outcomes, and the schema has 63: use pairs=equal"):
        count_patterns(np.zeros((1, 63), bool))
