"""Bootstrap draws of users. Loads without torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
BLOCK_CELLS = 1 << 22
"""Maximum number of weights in one block of resamples; bounds the memory (a few times 8 bytes per weight)."""


def user_weights(users: int, resamples: int, *, seed: int, widest: int = 1) -> Iterator[NDArray[np.float64]]:
    """Blocks (B, U) of weights: how often each user is drawn in U draws with replacement.

    The draws depend only on the number of users and the seed.

    Args:
        widest: length of the longest row that the caller makes of the weights of a resample, if it exceeds U; a block
            holds the fewer resamples, the longer the rows.
    """
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // max(users, widest))
    for done in range(0, resamples, block):
        rows = min(block, resamples - done)
        drawn = generator.integers(0, max(users, 1), size=(rows, users), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
