"""The bootstrap over users against scipy, against loops over resamples, and on data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from easq_rec.config.schema import Outcome
from easq_rec.evaluation import resampling
from easq_rec.evaluation.metrics import intervals, outcome_columns
from easq_rec.evaluation.metrics.by_request import CALIBRATION, MEANS, QUOTIENTS, answer_columns, request_columns
from easq_rec.evaluation.metrics.intervals import METRICS, AnswerScores, UserSums, differences, estimates, interval

USERS = 40
OUTCOMES = (
    Outcome(name="like", weight=1.0, negatives_kept=0.5),
    Outcome(name="watch_s", weight=0.1, kind="amount"),
)


class Data:
    """Requests of some users, uneven, with answers to a few of them; `noise` blurs the score."""

    def __init__(self, *, noise: float = 1.0, seed: int = 0, users: int = USERS) -> None:
        generator = torch.Generator().manual_seed(0)
        requests = 4 * users
        self.user_R = torch.randint(0, users, (requests,), generator=generator) * 7 - 3
        self.lengths_R = torch.randint(0, 9, (requests,), generator=generator)
        items = int(self.lengths_R.sum())
        self.truth_N = torch.randint(0, 4, (items,), generator=generator).double()
        self.utility_N = (torch.rand(items, generator=generator) < 0.4).double()
        self.answer_N = torch.where(torch.rand(items, generator=generator) < 0.3, (self.truth_N > 1).long() * 2, -1)
        blur_N = torch.randn(items, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.score_N = (self.truth_N + self.utility_N + noise * blur_N).mul(4).round().div(4)  # ties
        self.owner_N = self.user_R.repeat_interleave(self.lengths_R)

    def answers(self) -> AnswerScores:
        kept = self.answer_N >= 0
        return AnswerScores(
            score_A=self.score_N[kept].numpy(),
            satisfied_A=(self.answer_N == 2)[kept].numpy(),
            user_A=self.owner_N[kept].numpy(),
        )

    def columns(self) -> dict[str, NDArray[np.float64]]:
        found = request_columns(self.score_N, self.truth_N, self.utility_N, self.lengths_R, self.user_R)
        logit_NO, outcome_NO = (torch.stack([of_N, of_N], 1) for of_N in (self.score_N - 2, self.utility_N))
        found |= outcome_columns(logit_NO, outcome_NO, self.lengths_R, OUTCOMES)
        found |= answer_columns(self.score_N, self.answer_N, self.lengths_R, self.user_R)
        return {name: value.numpy() for name, value in found.items()}

    def sums(self) -> UserSums:
        return UserSums(self.user_R.numpy(), self.columns(), self.answers())


def slow_metrics(data: Data, users: NDArray[np.int64]) -> list[float]:
    """Every metric of a sample of users (ids, repeated as drawn), by going through their rows one after the other."""
    columns, answers = data.columns(), data.answers()
    rows = np.concatenate([np.flatnonzero(data.user_R.numpy() == user) for user in users])
    found = [float(np.nanmean(columns[name][rows])) for name in MEANS]
    found += [float(columns[top][rows].sum() / columns[bottom][rows].sum()) for top, bottom in QUOTIENTS.values()]
    predicted, observed, pairs = (columns[name][rows].sum(0) for name in CALIBRATION)
    found.append((predicted - observed).sum() / pairs.sum())
    errors = [np.abs(predicted - observed).sum() / pairs.sum()]
    for outcome in ("like", "watch_s"):
        predicted, observed, weight = (
            columns[f"outcome_{part}_{outcome}"][rows].sum(0) for part in ("predicted", "observed", "weight")
        )
        if outcome == "like":
            found.append(columns["outcome_loss_like"][rows].sum() / weight.sum())
        found.append(predicted.sum() / observed.sum())
        errors.append(np.abs(predicted - observed).sum() / weight.sum())
    found += errors
    asked = np.concatenate([np.flatnonzero(answers.user_A == user) for user in users])
    return [*found, float(roc_auc_score(answers.satisfied_A[asked], answers.score_A[asked]))]


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_replicates_equal_a_loop_over_the_drawn_users(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK_CELLS", block * USERS)
    data = Data()
    sums = data.sums()
    (replicate_BM,) = intervals._replicates([sums], 6, 3)
    weight_BU = np.concatenate(list(resampling.user_weights(len(sums), 6, seed=3)))
    assert (weight_BU.sum(1) == len(sums)).all()
    for row, weight_U in zip(replicate_BM, weight_BU, strict=True):
        drawn = np.repeat(sums.user_U, weight_U.astype(np.int64))
        assert row.tolist() == pytest.approx(slow_metrics(data, drawn), abs=1e-12)
    assert [found.value for found in estimates(sums).values()] == pytest.approx(slow_metrics(data, sums.user_U))


def test_quotients_are_the_sums_of_their_metrics() -> None:
    sums = Data().sums()
    names = ("engagement_ndcg5", "gauc", "pair_accuracy")
    top_UM, bottom_UM = sums.quotients(names)
    found = estimates(sums, resamples=2)
    assert (top_UM.sum(0) / bottom_UM.sum(0)).tolist() == pytest.approx([found[name].value for name in names])
    with pytest.raises(AssertionError):
        sums.quotients(("calibration_error",))


def test_the_jackknife_equals_a_loop_that_leaves_out_each_user() -> None:
    data = Data()
    sums = data.sums()
    without_UM = sums.jackknife()
    assert without_UM.shape == (len(sums), len(sums.names))
    for u, user in enumerate(sums.user_U):
        rest = sums.user_U[sums.user_U != user]
        assert without_UM[u].tolist() == pytest.approx(slow_metrics(data, rest), abs=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_an_interval_equals_scipys_from_the_same_distribution(method: str) -> None:
    rng = np.random.default_rng(0)
    sample = rng.exponential(size=25) ** 2  # skewed, so that the corrections matter
    theirs = stats.bootstrap((sample,), np.mean, n_resamples=999, method=method, rng=1, vectorized=True)
    jackknife_U = (sample.sum() - sample) / (len(sample) - 1)
    ours = interval(float(sample.mean()), theirs.bootstrap_distribution, jackknife_U, 0.95, method)  # type: ignore[arg-type]
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_estimates_equal_scipys_bootstrap_over_users(method: str) -> None:
    """A quotient of sums: scipy draws (numerator, denominator) pairs; both ends agree to a tenth of the width."""
    sums = Data().sums()
    at = METRICS.index("pair_accuracy")
    data = (sums._top[:, at], sums._bottom[:, at])
    theirs = stats.bootstrap(
        data,
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        n_resamples=9_999,
        method=method,
        rng=0,
        vectorized=True,
    ).confidence_interval
    ours = estimates(sums, resamples=9_999, method=method)["pair_accuracy"]  # type: ignore[arg-type]
    width = theirs.high - theirs.low
    assert width > 0.02
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.1 * width)


def test_intervals_cover_the_truth_and_requests_as_units_would_not() -> None:
    """300 logs of 40 users whose requests resemble each other: 95% intervals hold the true mean in 95% of them."""
    rng = np.random.default_rng(0)
    users, each, logs, truth = 40, 8, 300, 0.5
    user_R = np.repeat(np.arange(users), each)
    covered = {"users": 0, "requests": 0}
    for _ in range(logs):
        value_R = truth + 0.1 * rng.normal(size=users)[user_R] + 0.1 * rng.normal(size=users * each)
        for unit, owner_R in (("users", user_R), ("requests", np.arange(users * each))):
            sums = UserSums(owner_R, {"satisfaction_ndcg5": value_R})
            found = estimates(sums, resamples=400)["satisfaction_ndcg5"]
            covered[unit] += found.low <= truth <= found.high
    assert 0.91 <= covered["users"] / logs <= 0.98
    assert covered["requests"] / logs < 0.75


def test_paired_differences_are_narrower_than_two_intervals_and_know_their_sign() -> None:
    base, better = Data(noise=2.0, seed=1), Data(noise=1.0, seed=1)
    found = differences(better.sums(), base.sums())
    apart = [estimates(data.sums())["pair_accuracy"] for data in (better, base)]
    entry = found["pair_accuracy"]
    assert (entry.run, entry.base) == (apart[0].value, apart[1].value)
    assert entry.difference.value == pytest.approx(entry.run - entry.base)
    assert entry.relative.value == pytest.approx(entry.run / entry.base - 1)
    assert 0 < entry.difference.low < entry.difference.value < entry.difference.high
    assert 0 < entry.relative.low < entry.relative.high
    widths = [one.high - one.low for one in apart]
    assert entry.difference.high - entry.difference.low < 0.7 * math.hypot(*widths)
    same = differences(base.sums(), base.sums())["pair_accuracy"]
    assert (same.difference.low, same.difference.value, same.difference.high) == (0, 0, 0)


def test_a_seed_gives_the_same_interval_again_and_another_a_close_one() -> None:
    sums = Data().sums()
    first, again, other = (estimates(sums, seed=seed)["answer_auc"] for seed in (0, 0, 1))
    assert first == again and first != other
    assert first.low == pytest.approx(other.low, abs=0.02)


def test_one_user_and_nothing_at_all_have_no_interval() -> None:
    one = UserSums(np.array([5, 5]), {"satisfaction_ndcg5": np.array([0.5, 1.0])})
    found = estimates(one)
    assert found["satisfaction_ndcg5"].value == 0.75 and math.isnan(found["satisfaction_ndcg5"].low)
    assert math.isnan(found["gauc"].value) and math.isnan(found["answer_auc"].value)
    nobody = estimates(UserSums(np.zeros(0, np.int64), {}))
    assert all(math.isnan(entry.value) and math.isnan(entry.low) for entry in nobody.values())


def test_the_metrics_of_outcomes_follow_the_others_and_have_intervals() -> None:
    sums = Data().sums()
    ours = [name for name in sums.names if name not in METRICS]
    assert ours == [
        *("outcome_log_loss_like", "outcome_ratio_like", "outcome_ratio_watch_s"),
        *("outcome_calibration_error_like", "outcome_calibration_error_watch_s"),
    ]
    found = estimates(sums, resamples=200)
    assert all(found[name].low < found[name].value < found[name].high for name in ours if "error" not in name)


def test_runs_that_predict_different_outcomes_are_compared_in_those_of_both() -> None:
    data = Data()
    others = {name: value for name, value in data.columns().items() if not name.endswith("_like")}
    found = differences(data.sums(), UserSums(data.user_R.numpy(), others, data.answers()), resamples=5)
    assert set(found) == {*METRICS, "outcome_ratio_watch_s", "outcome_calibration_error_watch_s"}
    assert all(entry.run == entry.base for entry in found.values())


def test_runs_over_different_users_are_an_error() -> None:
    sums = [UserSums(np.array(users), {}) for users in ([1, 2], [1, 3])]
    with pytest.raises(ValueError, match="different users"):
        differences(*sums)
