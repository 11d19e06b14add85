"""The hash of numbers."""

from __future__ import annotations

import numpy as np

from easq_rec.data.mixing import mixed


def test_hashes_are_unique_and_depend_on_the_order_of_columns() -> None:
    count = 50_000
    hashes = mixed(np.arange(count) // 100, np.arange(count) % 100)
    assert len(np.unique(hashes)) == count
    assert (hashes >= 0).all()
    assert (mixed(np.arange(count) % 100, np.arange(count) // 100) != hashes).mean() > 0.99
