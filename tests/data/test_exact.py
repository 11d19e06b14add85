"""Exact functions agree with the C library, and random draws made with them have the right distributions."""

from __future__ import annotations

import hashlib
import math
import statistics

import numpy as np
import pytest

from easq_rec.data import exact

DIGEST = "509bc398bceb3bd5b802f48110b5d90b9e2949014a0860ee0161e90cae027a3c"


def test_functions_agree_with_the_c_library() -> None:
    rng = np.random.default_rng(0)
    numbers = np.r_[rng.uniform(-40, 40, 20_000), 0.0, 1e-300, -1e-300]
    np.testing.assert_allclose(exact.exp(numbers), [math.exp(x) for x in numbers], rtol=5e-16)
    positive = np.r_[exact.exp(numbers), 1.0, 2.0**-1000, 0.5, rng.random(20_000) + 0.5]
    np.testing.assert_allclose(exact.log(positive), [math.log(x) for x in positive], rtol=5e-16)
    probability = np.r_[rng.random(20_000) * (1 - 2e-9) + 1e-9, 2.0**-54, 1e-12, 1 - 2.0**-53, 0.02425, 0.97575]
    expected = [statistics.NormalDist().inv_cdf(p) for p in probability]
    np.testing.assert_allclose(exact.normal_quantile(probability), expected, rtol=2e-9, atol=1e-12)
    assert exact.exp([-1e9, 1e9]).tolist() == exact.exp([-700, 700]).tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (3, exact.BLOCK), (2, 3, 4)])
def test_functions_accept_any_shape(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    for function in (exact.exp, exact.sigmoid):
        assert function(x).shape == shape
    assert exact.sigmoid(x).dtype == np.float32
    assert exact.log(x + 1).tolist() == np.vectorize(lambda y: float(exact.log(y)), otypes=[float])(x + 1).tolist()


def test_draws_have_the_right_distributions() -> None:
    rng = np.random.default_rng(0)
    normal, exponential = exact.normal(rng, 400, 500), exact.exponential(rng, 200_000)
    assert normal.shape == (400, 500)
    levels = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    normal_levels = [statistics.NormalDist().inv_cdf(level) for level in levels]
    for draws, expected in ((normal.ravel(), normal_levels), (exponential, -np.log(1 - levels))):
        below = (draws[:, None] < expected).mean(axis=0)
        assert (np.abs(below - levels) < 4 * np.sqrt(levels * (1 - levels) / draws.size)).all()


def test_results_are_bit_identical_to_recorded_ones() -> None:
    """The results have the same bits on every CPU."""
    rng = np.random.default_rng(0)
    found = [exact.normal(rng, 2_000), exact.exponential(rng, 2_000), exact.exp(rng.random(2_000) * 20 - 10)]
    assert hashlib.sha256(np.concatenate(found).astype("<f8").tobytes()).hexdigest() == DIGEST


def test_turned_gives_cosine_and_sine() -> None:
    turns = np.r_[np.random.default_rng(0).uniform(-3, 3, 5_000), np.arange(-8, 9) / 8]
    cosine, sine = exact.turned(turns)
    np.testing.assert_allclose(cosine, [math.cos(2 * math.pi * x) for x in turns], atol=3e-15)
    np.testing.assert_allclose(sine, [math.sin(2 * math.pi * x) for x in turns], atol=3e-15)
    # Whole quarters of a turn have no error at all.
    assert [part.tolist() for part in exact.turned([0.0, 0.25, 0.5, 0.75])] == [[1, 0, -1, 0], [0, 1, 0, -1]]
