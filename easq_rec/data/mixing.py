"""A hash of numbers with the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


def mixed(*columns: Int) -> Int:
    """A 63-bit hash of the columns' values (the finaliser of splitmix64 over each)."""
    value = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        value = finalised((value ^ column.view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return (value >> np.uint64(1)).view(np.int64)


def finalised(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): each bit of the result depends on all bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
