"""The metrics of the rankers agree with loops over users and requests, and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from benchmarks.rankers.quality import Estimate, Truth, difference, mean_over_seeds, quality


def some_truth(seed: int, users: int = 30, requests: int = 120) -> Truth:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, size=requests)
    request_N = np.repeat(np.arange(requests), lengths)
    # Ids of users are neither dense nor in order.
    user_N = (7 * rng.integers(0, users, size=requests) - 50)[request_N]
    return Truth(label_N=rng.random(len(request_N)) < 0.4, user_N=user_N, request_N=request_N)


def some_scores(truth: Truth, seed: int) -> np.ndarray:
    """Probabilities that say something about the label, with many ties."""
    rng = np.random.default_rng(seed)
    return np.clip(np.round(0.3 + 0.2 * truth.label_N + rng.normal(0, 0.2, len(truth.label_N)), 1), 0.0, 1.0)


def reference(score_N: np.ndarray, truth: Truth) -> dict[str, float]:
    """The same metrics in loops."""
    label_N = truth.label_N
    users, weights = [], []
    for user in np.unique(truth.user_N):
        mine = truth.user_N == user
        if 0 < label_N[mine].sum() < mine.sum():
            users.append(roc_auc_score(label_N[mine], score_N[mine]))
            weights.append(mine.sum())
    requests = []
    for request in np.unique(truth.request_N):
        here = truth.request_N == request
        if 0 < label_N[here].sum() < here.sum():
            requests.append(ndcg_score([label_N[here].astype(float)], [score_N[here]], k=5))
    return {
        "auc": float(roc_auc_score(label_N, score_N)),
        "gauc": float(np.average(users, weights=weights)),
        "log_loss": float(log_loss(label_N, np.clip(score_N, 1e-7, 1 - 1e-7))),
        "ndcg5": float(np.mean(requests)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_the_loops(seed: int) -> None:
    truth = some_truth(seed)
    scores = [some_scores(truth, seed), some_scores(truth, seed + 100)]
    found = quality(scores, truth, probability=True, resamples=20)
    wanted = [reference(score_N, truth) for score_N in scores]
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(np.mean([one[name] for one in wanted]), abs=1e-12), name
        assert estimate.low <= estimate.value <= estimate.high
    assert set(found) == set(wanted[0])


def test_a_resample_is_the_same_as_copies_of_its_users() -> None:
    """Weights give what the metrics of a log with each drawn user's rows, as often as drawn, would be."""
    truth = some_truth(1)
    score_N = some_scores(truth, 1)
    _, replicates = mean_over_seeds([score_N], truth, probability=True, resamples=5, seed=3)
    users, generator = np.unique(truth.user_N), np.random.default_rng(3)
    for resample in range(5):
        drawn = generator.integers(0, len(users), size=len(users))
        rows = [np.flatnonzero(truth.user_N == users[place]) for place in drawn]
        # Each copy of a user is another user with requests of its own.
        copy = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        taken = np.concatenate(rows)
        request_N = np.unique(np.stack([copy, truth.request_N[taken]]), axis=1, return_inverse=True)[1].ravel()
        order = np.argsort(request_N, kind="stable")
        taken, copy, request_N = taken[order], copy[order], request_N[order]
        copied = Truth(label_N=truth.label_N[taken], user_N=copy, request_N=request_N)
        for name, value in reference(score_N[taken], copied).items():
            assert replicates[name][resample] == pytest.approx(value, abs=1e-6), name


def test_scores_that_are_no_probabilities_have_no_log_loss() -> None:
    truth = some_truth(2)
    score_N = 100 * some_scores(truth, 2)
    found = quality([score_N], truth, probability=False, resamples=5)
    assert set(found) == {"auc", "gauc", "ndcg5"}
    # Only the order counts.
    assert found["auc"].value == pytest.approx(reference(score_N / 100, truth)["auc"])


def test_certainty_that_is_wrong_has_a_finite_log_loss() -> None:
    truth = Truth(label_N=np.array([True, False]), user_N=np.array([1, 1]), request_N=np.array([0, 0]))
    found = quality([np.array([0.0, 1.0])], truth, probability=True, resamples=2)
    assert 10 < found["log_loss"].value < 20
    assert (found["auc"].value, found["gauc"].value) == (0.0, 0.0)


def test_the_interval_covers_the_spread_over_users() -> None:
    """Half of the users are ranked right and half of them wrong, so the mean over 40 of them is uncertain by 0.08."""
    users, right = np.arange(40).repeat(10), np.arange(40) % 2 == 0
    label_N = np.tile(np.arange(10) % 2 == 0, 40)
    score_N = np.where(right[users], label_N, ~label_N).astype(float)
    truth = Truth(label_N=label_N, user_N=users, request_N=users)
    gauc = quality([score_N], truth, probability=False)["gauc"]
    assert gauc.value == 0.5
    assert (gauc.high - gauc.low) / (2 * 1.96) == pytest.approx(0.5 / 40**0.5, rel=0.15)


def test_a_difference_of_equal_scores_is_zero_and_a_better_score_differs() -> None:
    truth = some_truth(5)
    score_N = some_scores(truth, 5)
    same = difference([score_N], [score_N.copy()], truth, resamples=50)
    assert set(same.values()) == {Estimate(value=0.0, low=0.0, high=0.0)}
    better = difference([score_N + truth.label_N], [score_N], truth, resamples=50)
    assert all(found.low > 0 for found in better.values())
