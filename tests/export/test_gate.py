"""The comparison of a package with the trained ranker."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from easq_rec.errors import UserError
from easq_rec.export.gate import LIMITS, Gate, pair_order

LENGTHS = torch.tensor([3, 1, 4])
SCORES = torch.tensor([1.0, 2.0, 3.0, 0.0, 4.0, 3.0, 2.0, 1.0])
UTILITY = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])


def gate(found_N: torch.Tensor, alone: float = 0.0) -> Gate:
    return Gate.of(SCORES, found_N, UTILITY, LENGTHS, alone=alone)


def test_equal_scores_pass_at_every_precision() -> None:
    found = gate(SCORES + 1e-7)
    assert (found.requests, found.candidates, found.pair_order) == (3, 8, 1.0)
    for precision in LIMITS:
        found.check(precision)


def test_each_limit_is_named() -> None:
    good = gate(SCORES)
    for change, words in (
        ({"difference": 2e-5}, "a score differs by 2e-05, at most 1e-05 is allowed"),
        ({"difference": float("nan")}, "a score differs by nan"),
        ({"pair_order": 0.9999}, "99.9900% of the pairs keep the order of the ranker, at least 100.0%"),
        ({"ndcg": -0.01}, "engagement NDCG@10 differs by -0.01000"),
        ({"alone": 1e-3}, "a request scores 0.001 higher or lower alone"),
    ):
        with pytest.raises(UserError, match=r"nothing\s+was published") as raised:
            dataclasses.replace(good, **change).check("fp32")
        assert words in str(raised.value)


def test_a_difference_is_relative_to_large_scores() -> None:
    scores = torch.tensor([100.0, 0.0, 1.0])
    found = Gate.of(scores, scores + 1e-4, torch.ones(3), torch.tensor([3]), alone=0.0)
    assert found.difference == pytest.approx(1e-4, rel=0.1)
    found = Gate.of(scores, scores + torch.tensor([1e-4, 0, 0]), torch.ones(3), torch.tensor([3]), alone=0.0)
    assert found.difference == pytest.approx(1e-6, rel=0.1)


def test_the_share_of_pairs_in_order() -> None:
    swapped = SCORES.clone()
    swapped[:3] = torch.tensor([2.0, 1.0, 3.0])
    # Of 3 + 0 + 6 pairs.
    assert pair_order(SCORES, swapped, LENGTHS) == pytest.approx(8 / 9)
    assert gate(swapped).ndcg < 0
    same = torch.tensor([1.0, 1.0 + 1e-6])
    assert pair_order(same, same.flip(0), torch.tensor([2])) == 1.0
