"""Elementary functions and random draws whose results have the same bits on every CPU.

The exp, log and power of numpy and of the C library choose their code by the CPU, and the last bit of their results
differs between CPU types. In a simulation one such bit can decide a draw, and every later draw depends on it. These
functions use only additions, multiplications, divisions, square roots and changes of the exponent, whose results
IEEE 754 fixes. Each is one numpy operation, so that no compiler fuses two of them.

Of numpy's random generators only integers and uniform numbers are used, which are exact too. All functions take and
return float64 arrays of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BLOCK = 8_192
"""Elements computed at once, so that intermediate arrays stay in the cache."""
LOG_2 = 0.6931471805599453
LOG_2_HIGH, LOG_2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""log(2) as a sum; the first part ends in 20 zero bits, so that its products with integers are exact."""
SQRT_HALF = 0.7071067811865476
SMALLEST_UNIFORM = 2.0**-54
"""Half of the step between uniform numbers; replaces 0, whose normal quantile is infinite."""

# Peter J. Acklam's rational approximations of the normal quantile: relative error below 1.2e-9.
CENTRE_TOP = (
    *(-3.969683028665376e01, 2.209460984245205e02, -2.759285104469687e02),
    *(1.383577518672690e02, -3.066479806614716e01, 2.506628277459239e00),
)
CENTRE_BOTTOM = (
    *(-5.447609879822406e01, 1.615858368580409e02, -1.556989798598866e02),
    *(6.680131188771972e01, -1.328068155288572e01, 1.0),
)
TAIL_TOP = (
    *(-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e00),
    *(-2.549732539343734e00, 4.374664141464968e00, 2.938163982698783e00),
)
TAIL_BOTTOM = (7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e00, 3.754408661907416e00, 1.0)
TAIL = 0.02425
"""Probability of each tail, which has a separate approximation."""


def _by_blocks(function: Callable[[Floats], Floats]) -> Callable[[ArrayLike], Floats]:
    def whole(x: ArrayLike) -> Floats:
        array = np.asarray(x, dtype=np.float64)
        flat = array.reshape(-1)
        result = np.empty_like(flat)
        for start in range(0, len(flat), BLOCK):
            result[start : start + BLOCK] = function(flat[start : start + BLOCK])
        return result.reshape(array.shape)

    whole.__doc__ = function.__doc__
    return whole


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Horner's scheme, highest power first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


EXP_SERIES = tuple(1 / factorial for factorial in (6227020800, 479001600, 39916800, 3628800, 362880, 40320)) + tuple(
    1 / factorial for factorial in (5040, 720, 120, 24, 6, 2, 1, 1)
)
LOG_SERIES = tuple(1 / odd for odd in range(23, 0, -2))


@_by_blocks
def exp(x: Floats) -> Floats:
    """e to the power of x, within 2 units in the last place; x beyond +-700 counts as +-700."""
    x = np.clip(x, -700.0, 700.0)
    power = np.rint(x * (1 / LOG_2))
    rest = (x - power * LOG_2_HIGH) - power * LOG_2_LOW
    return np.asarray(np.ldexp(_polynomial(rest, EXP_SERIES), power.astype(np.int32)))


@_by_blocks
def log(x: Floats) -> Floats:
    """Natural logarithm of positive numbers, within 2 units in the last place."""
    part, power = np.frexp(x)
    low = part < SQRT_HALF
    part, power = np.where(low, 2 * part, part), power - low
    # log(part) = 2 artanh(ratio)
    ratio = (part - 1) / (part + 1)
    series = 2 * ratio * _polynomial(ratio * ratio, LOG_SERIES)
    return np.asarray(power * LOG_2_HIGH + (power * LOG_2_LOW + series))


@_by_blocks
def normal_quantile(probability: Floats) -> Floats:
    """Quantile of the standard normal distribution at probabilities above 0 and below 1."""
    centred = probability - 0.5
    square = centred * centred
    result = centred * _polynomial(square, CENTRE_TOP) / _polynomial(square, CENTRE_BOTTOM)
    tails = np.flatnonzero(np.abs(centred) > 0.5 - TAIL)
    beyond = np.minimum(probability[tails], 1 - probability[tails])
    depth = np.sqrt(-2 * log(beyond))
    low = _polynomial(depth, TAIL_TOP) / _polynomial(depth, TAIL_BOTTOM)
    result[tails] = np.where(centred[tails] < 0, low, -low)
    return result


COS_SERIES = tuple((-1) ** n / math.factorial(2 * n) for n in range(9, -1, -1))
SIN_SERIES = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(9, -1, -1))
FULL_TURN = 6.283185307179586


def turned(turns: ArrayLike) -> tuple[Floats, Floats]:
    """Cosine and sine of angles in full turns, within 1e-15."""
    array = np.asarray(turns, dtype=np.float64)
    quarter = np.rint(4 * array)
    # An eighth of a turn at most.
    angle = (array - 0.25 * quarter) * FULL_TURN
    square = angle * angle
    cos, sin = _polynomial(square, COS_SERIES), angle * _polynomial(square, SIN_SERIES)
    which = np.mod(quarter, 4)
    odd = np.mod(quarter, 2) == 1
    cosine, sine = np.where(odd, sin, cos), np.where(odd, cos, sin)
    return np.where((which == 1) | (which == 2), -cosine, cosine), np.where(which >= 2, -sine, sine)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)), in the type of x."""
    return np.asarray(1 / (1 + exp(-x)), dtype=x.dtype)


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    """Standard normal draws."""
    return normal_quantile(np.maximum(rng.random(shape), SMALLEST_UNIFORM))


def exponential(rng: np.random.Generator, *shape: int) -> Floats:
    """Draws from the exponential distribution of mean 1."""
    return -log(1 - rng.random(shape))
