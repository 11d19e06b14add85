"""NDCG, AUC, GAUC and pair accuracy against scikit-learn and against plain Python loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from easq_rec.evaluation.metrics import auc, gauc, graded_gain, ndcg, pair_accuracy, ranking_metrics
from easq_rec.evaluation.metrics.segments import Order, descending_within_segments, levels, won_pairs
from tests.evaluation.metrics.loops import (
    NAN,
    SCORES,
    TRUTHS,
    Item,
    flatten,
    loop_auc,
    loop_gauc,
    loop_pairs,
    requests_of,
    sklearn_ndcg,
)

GRADES = st.sampled_from([0.0, 0.0, 1.0, 2.0, 4.0])


# ---------------------------------------------------------------------------------------------------------------------
# NDCG


@settings(deadline=None, max_examples=200)
@given(requests_of(GRADES), st.sampled_from([1, 2, 3, 5, 10, 100]), st.sampled_from([torch.float32, torch.float64]))
def test_ndcg_equals_sklearn(requests: list[list[Item]], k: int, dtype: torch.dtype) -> None:
    got_R = ndcg(*flatten(requests, dtype), k)
    want_R = torch.tensor([sklearn_ndcg(request, k, dtype) for request in requests], dtype=torch.float64)
    assert got_R.dtype == torch.float64
    torch.testing.assert_close(got_R, want_R, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_ndcg_equals_sklearn_on_many_requests(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    grade_RC = torch.randint(0, 4, (200, 20), generator=generator).double()
    score_RC = torch.randn(200, 20, generator=generator).mul(4).round().double()  # ties
    got_R = ndcg(score_RC.flatten(), graded_gain(grade_RC.flatten()), torch.full((200,), 20), k)
    want = ndcg_score(grade_RC.exp2().numpy() - 1, score_RC.numpy(), k=k)
    assert float(got_R.nanmean()) == pytest.approx(want, abs=1e-12)
    assert 0.3 < want < 0.9


def test_ndcg_by_hand() -> None:
    score_N = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0, 5.0, 5.0])
    gain_N = torch.tensor([0.0, 1.0, 3.0, 0.0, 1.0, 0.0, 2.0])
    ndcg_R = ndcg(score_N, gain_N, torch.tensor([3, 0, 1, 1, 2]), 2)
    first = (1 / math.log2(3)) / (3 + 1 / math.log2(3))  # the gain of 3 lies beyond the cutoff
    tied = (1 + 1 / math.log2(3)) / 2
    want_R = torch.tensor([first, NAN, NAN, 1.0, tied], dtype=torch.float64)
    torch.testing.assert_close(ndcg_R, want_R, equal_nan=True)


def test_ndcg_of_the_ideal_order_is_one_and_of_the_reverse_is_less() -> None:
    gain_N = torch.tensor([0.0, 1.0, 3.0, 7.0])
    lengths_R = torch.tensor([4])
    assert float(ndcg(gain_N, gain_N, lengths_R, 3)) == pytest.approx(1.0)
    assert float(ndcg(-gain_N, gain_N, lengths_R, 3)) < 0.5


def test_graded_gain() -> None:
    gain_N = graded_gain(torch.tensor([0.0, 1.0, 2.0, NAN, 4.0]))
    assert gain_N.tolist() == [0.0, 1.0, 3.0, 0.0, 15.0]
    assert graded_gain(torch.tensor([0, 2])).tolist() == [0.0, 3.0]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 3)), max_size=40))
def test_one_integer_sort_equals_two_stable_sorts(items: list[tuple[float, int]]) -> None:
    value_N = torch.tensor([value for value, _ in items], dtype=torch.float32)
    segment_N = torch.tensor([segment for _, segment in items], dtype=torch.int64)
    order_N = descending_within_segments(value_N, segment_N)
    slow = sorted(range(len(items)), key=lambda n: (items[n][1], -items[n][0]))
    assert sorted(order_N.tolist()) == list(range(len(items)))
    assert [items[n] for n in order_N.tolist()] == [items[n] for n in slow]


# ---------------------------------------------------------------------------------------------------------------------
# AUC, GAUC


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(SCORES, st.booleans(), st.sampled_from([-7, 0, 3, 2**62])), max_size=40))
def test_auc_and_gauc_equal_loops(items: list[tuple[float, bool, int]]) -> None:
    score_N = torch.tensor([score for score, _, _ in items], dtype=torch.float64)
    label_N = torch.tensor([label for _, label, _ in items], dtype=torch.bool)
    user_N = torch.tensor([user for _, _, user in items], dtype=torch.int64)
    result = auc(score_N, label_N, user_N)
    users = sorted({user for _, _, user in items})
    own = {user: [(score, label) for score, label, owner in items if owner == user] for user in users}
    assert result.segment_S.tolist() == users
    assert result.items_S.tolist() == [len(own[user]) for user in users]
    assert result.positives_S.tolist() == [sum(label for _, label in own[user]) for user in users]
    want_S = torch.tensor([loop_auc(own[user]) for user in users], dtype=torch.float64)
    torch.testing.assert_close(result.auc_S, want_S, rtol=0, atol=1e-12, equal_nan=True)
    assert float(gauc(score_N, label_N, user_N)) == pytest.approx(loop_gauc(items), abs=1e-12, nan_ok=True)


def test_auc_equals_sklearn_on_one_large_segment() -> None:
    generator = torch.Generator().manual_seed(0)
    label_N = torch.rand(5000, generator=generator) < 0.1
    score_N = (torch.randn(5000, generator=generator) + label_N).mul(5).round()
    got = auc(score_N, label_N, torch.zeros(5000, dtype=torch.int64)).auc_S
    assert float(got) == pytest.approx(roc_auc_score(label_N.numpy(), score_N.numpy()), abs=1e-12)
    assert float(got) > 0.7


def test_gauc_weighs_by_impressions_and_leaves_one_class_users_out() -> None:
    # User 1: 2 impressions, AUC 1. User 2: 4 impressions, AUC 0. User 3: one class, 5 impressions.
    score_N = torch.tensor([2.0, 1.0, 0.0, 5.0, 5.0, 5.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    label_N = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1])
    user_N = torch.tensor([1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3])
    assert float(gauc(score_N, label_N, user_N)) == pytest.approx(2 / 6)
    assert math.isnan(float(gauc(score_N[6:], label_N[6:], user_N[6:])))


# ---------------------------------------------------------------------------------------------------------------------
# Pair accuracy


@settings(deadline=None, max_examples=200)
@given(requests_of(st.one_of(TRUTHS, st.sampled_from([-3.5, 0.5, 9.0, 17.0, 70.0, math.inf]))))
def test_pair_accuracy_equals_loops(requests: list[list[Item]]) -> None:
    counts = pair_accuracy(*flatten(requests))
    correct, pairs = loop_pairs(requests)
    assert float(counts.correct) == correct
    assert int(counts.pairs) == pairs


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(SCORES, st.integers(0, 700), st.integers(0, 2)), max_size=40))
def test_won_pairs_equal_loops_whatever_the_number_of_digits(items: list[tuple[float, int, int]]) -> None:
    score_N = torch.tensor([score for score, _, _ in items], dtype=torch.float64)
    level_N = torch.tensor([level for _, level, _ in items], dtype=torch.int64)
    order = Order.of(score_N, torch.tensor([segment for _, _, segment in items], dtype=torch.int64), 3)
    won_N, pairs_N = won_pairs(order, level_N[order.item_N])
    for place, item in enumerate(order.item_N.tolist()):
        score, level, segment = items[item]
        lower = [other for other, below, where in items if where == segment and below < level]
        assert float(pairs_N[place]) == len(lower)
        assert float(won_N[place]) == sum((score > other) + 0.5 * (score == other) for other in lower)


def test_levels_order_like_the_truths() -> None:
    assert levels(torch.tensor([3.0, 0.0, 63.0])).tolist() == [3, 0, 63]
    assert levels(torch.tensor([4.5, -1.0, 64.0, 4.5])).tolist() == [1, 0, 2, 1]
    assert levels(torch.zeros(0)).tolist() == []


def test_pair_accuracy_by_hand() -> None:
    score_N = torch.tensor([1.0, 2.0, 2.0, 9.0, 0.0, 1.0])
    truth_N = torch.tensor([0.0, 1.0, NAN, 5.0, 2.0, 2.0])
    counts = pair_accuracy(score_N, truth_N, torch.tensor([3, 1, 2]))
    assert (float(counts.correct), int(counts.pairs)) == (1.0, 1)
    tied = pair_accuracy(torch.zeros(2), torch.tensor([0, 1]), torch.tensor([2]))
    assert (float(tied.correct), int(tied.pairs)) == (0.5, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def test_errors_name_the_argument_and_the_value() -> None:
    score_N, gain_N, lengths_R = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([2])
    broken_N = torch.tensor([1.0, NAN])
    user_R = torch.tensor([0])
    with pytest.raises(ValueError, match=r"k=0 is not allowed: at least 1"):
        ndcg(score_N, gain_N, lengths_R, 0)
    with pytest.raises(ValueError, match=r"score_N has shape \(2,\), but the sum of lengths_R requires \(3,\)"):
        ndcg(score_N, gain_N, torch.tensor([1, 2]), 5)
    with pytest.raises(ValueError, match=r"lengths_R contains -1"):
        pair_accuracy(score_N, gain_N, torch.tensor([3, -1]))
    with pytest.raises(ValueError, match=r"gain_N is -1.0 at 0"):
        ndcg(score_N, gain_N - 1, lengths_R, 5)
    with pytest.raises(ValueError, match=r"truth_N is -1.0 at 0"):
        ranking_metrics(score_N, gain_N - 1, gain_N, lengths_R, user_R)
    with pytest.raises(ValueError, match=r"utility_N is nan at 1"):
        ranking_metrics(score_N, gain_N, broken_N, lengths_R, user_R)
    with pytest.raises(ValueError, match=r"label_N has shape \(1,\), but segment_N requires \(2,\)"):
        auc(score_N, gain_N[:1], lengths_R.repeat(2))
    with pytest.raises(ValueError, match=r"user_R has shape \(2,\), but lengths_R requires \(1,\)"):
        ranking_metrics(score_N, gain_N, gain_N, lengths_R, user_R.repeat(2))
    for call in (
        lambda: ndcg(broken_N, gain_N, lengths_R, 5),
        lambda: gauc(broken_N, gain_N, lengths_R.repeat(2)),
        lambda: pair_accuracy(broken_N, gain_N, lengths_R),
        lambda: ranking_metrics(broken_N, gain_N, gain_N, lengths_R, user_R),
    ):
        with pytest.raises(ValueError, match=r"score_N has 1 NaN of 2 \(the first at 1\)"):
            call()
