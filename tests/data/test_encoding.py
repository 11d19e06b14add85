"""The served program encodes features as the reader does: the same functions, with tensors in place of arrays."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from easq_rec.config.schema import Feature, Table
from easq_rec.data import encoding

IDS = np.array([0, 1, -1, 96, 97, 98, -97, -98, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)])
DAY_MS = 86_400_000


@pytest.mark.parametrize("rows", [1, 2, 97, 2**20, 2**31, 2**40 + 3])
def test_rows_of_any_id(rows: int) -> None:
    table = Table(name="t", rows=rows, dim=8)
    expected = [int(id_) % rows for id_ in IDS]
    assert encoding.table_rows(IDS, table).tolist() == expected
    assert encoding.table_rows(torch.from_numpy(IDS), table).tolist() == expected


def test_ids_of_a_dense_table_are_its_rows() -> None:
    table = Table(name="t", rows=9, dim=8, id_space="dense")
    ids = np.arange(9)
    assert encoding.table_rows(ids, table).tolist() == ids.tolist()


def test_ages_of_entries_before_and_after_the_request() -> None:
    request = np.full(8, 1_767_225_600_000)
    entry = request - np.array([0, 1, 999, 1_000, -1, -DAY_MS, 365 * DAY_MS, request[0]])
    expected = np.array([0, 0.001, 0.999, 1, -0.001, -86_400, 31_536_000, 1_767_225_600], np.float32)
    same(encoding.age_seconds(request, entry), expected, exact=True)
    same(encoding.age_seconds(torch.from_numpy(request), torch.from_numpy(entry)), expected, exact=True)


@pytest.mark.parametrize("transform", ["identity", "log1p"])
def test_numbers(transform: Literal["identity", "log1p"]) -> None:
    feature = Feature(name="f", kind="float", transform=transform)
    for values in (np.array([-1e38, -1, -0.0, 0, 1e-38, 0.5, 1, 3e4, 1e38], np.float32), np.array([-5, 0, 2**40])):
        expected = values.astype(np.float32)
        if transform == "log1p":
            expected = np.log1p(np.maximum(expected.astype(np.float64), 0)).astype(np.float32)
        same(encoding.number(feature, values), expected)
        same(encoding.number(feature, torch.from_numpy(values)), expected)


def test_counts() -> None:
    count = np.array([[0, 0, 0], [0, 0, 1], [10, 0, 0.5], [10, 10, 0.5], [1e38, 1e38, 1e-9], [3, 1, 0.2]], np.float32)
    feature = Feature(name="c", kind="count", smoothing=5.0)
    found = encoding.count_numbers(feature, count)
    # Of the last one: (1 + 5 * 0.2) / (3 + 5) = 1/4.
    same(found[-1], np.log(np.array([1 / 3, 4, 1 / 4])).astype(np.float32))
    assert np.isfinite(found).all()
    same(encoding.count_numbers(feature, torch.from_numpy(count)), found)


def test_shares_of_weights() -> None:
    weights = np.array([1, 3, 0, 0, 1e38, 1e38, 2], np.float32)
    owner = np.array([0, 0, 1, 1, 3, 3, 4])
    expected = np.array([0.25, 0.75, 0, 0, 0.5, 0.5, 1], np.float32)
    same(encoding.shares(weights, owner, 6), expected)
    same(encoding.shares(torch.from_numpy(weights), torch.from_numpy(owner), 6), expected)
    empty = np.zeros(0, np.float32)
    assert encoding.shares(torch.from_numpy(empty), torch.zeros(0, dtype=torch.int64), 2).shape == (0,)


def same(found: Any, expected: NDArray[Any], *, exact: bool = False) -> None:
    """Equal values of the same type: the last bit of a logarithm may differ."""
    found = np.asarray(found)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0 if exact else 3e-7, atol=0)
