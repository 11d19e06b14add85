"""Shares of variance by pairs of impressions against loops over all pairs, and on labels of known composition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from easq_rec.evaluation.pair_shares import PairShares, pair_shares

Ids = NDArray[np.int64]


def by_loops(label: NDArray[Any], item: NDArray[Any], user: NDArray[Any]) -> PairShares:
    """The definition, pair by pair."""
    centred = [float(one) - float(np.mean(label)) for one in label]
    variance = sum(one * one for one in centred) / len(centred)
    products: dict[str, list[float]] = {"item": [], "user": []}
    for i in range(len(centred)):
        for j in range(i + 1, len(centred)):
            if item[i] == item[j] and user[i] != user[j]:
                products["item"].append(centred[i] * centred[j])
            if user[i] == user[j] and item[i] != item[j]:
                products["user"].append(centred[i] * centred[j])
    return PairShares(*(sum(found) / len(found) / variance if found else math.nan for found in products.values()))


@pytest.mark.parametrize("seed", range(4))
def test_shares_equal_the_loop_over_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few ids, so that users meet items several times: those pairs belong to neither share.
    item, user = rng.integers(0, 7, 90), rng.integers(0, 9, 90)
    label = rng.random(7)[item] + rng.random(9)[user] + rng.random(90)
    assert pair_shares(label, item, user) == pytest.approx(by_loops(label, item, user))
    names = np.array(["a", "b", "c", "d", "e", "f", "g"])
    assert pair_shares(label > 1.5, names[item], user - 4) == pytest.approx(by_loops(label > 1.5, item, user))


def test_shares_are_those_of_the_parts_of_a_label() -> None:
    rng = np.random.default_rng(0)
    item, user = rng.integers(0, 3_000, 400_000), rng.integers(0, 3_000, 400_000)
    noise = rng.normal(size=item.size)
    label = np.sqrt(0.2) * rng.normal(size=3_000)[item] + np.sqrt(0.3) * rng.normal(size=3_000)[user]
    found = pair_shares(label + np.sqrt(0.5) * noise, item, user)
    # Each part is a sample of 3,000, whose variance has a standard error of 2.6%.
    assert found == pytest.approx((0.2, 0.3), abs=0.025)
    assert pair_shares(noise, item, user) == pytest.approx((0.0, 0.0), abs=0.002)
    # A share does not depend on the unit of the label.
    assert pair_shares(7 - 3 * label, item, user) == pytest.approx(pair_shares(label, item, user))


def test_labels_without_pairs_or_without_variance_have_no_shares() -> None:
    once = np.arange(3)
    assert all(math.isnan(share) for share in pair_shares(np.array([0.0, 1.0, 2.0]), once, once))
    same_item = pair_shares(np.array([0.0, 1.0, 1.0]), np.zeros(3, np.int64), once)
    assert same_item.item == pytest.approx(-0.5) and math.isnan(same_item.user)
    assert all(math.isnan(share) for share in pair_shares(np.full(4, 0.1), once[[0, 0, 1, 1]], once[[0, 1, 0, 1]]))


def test_items_and_users_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items and 3 users: give one of each per impression"):
        pair_shares(np.zeros(2), np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(
    ("label", "item", "reason"),
    [
        ([], [], "0 items and 0 users: give one of each per impression, and at least one"),
        ([1.0, 2.0], [1], r"2 labels of 1 impressions: give one for each"),
        ([1.0, math.nan], [1, 2], "1 labels are not finite: leave them out"),
    ],
)
def test_labels_that_have_no_shares_are_refused(label: list[float], item: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pair_shares(np.array(label), np.array(item), np.array(item))
