"""The regression, its metrics and their bootstrap, against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.worth.curve import extrapolate
from easq_rec.tools.studies.worth.intervals import HeldOutAnswers, user_pairs
from easq_rec.tools.studies.worth.regression import NOT_FITTED, STRENGTHS, predict


def data(rows: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, labels); the first of five numbers has the signal."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(3.0, 2.0, (rows, 5))
    probability = 1 / (1 + np.exp(-signal * (numbers[:, 0] - 3.0)))
    return numbers, (rng.random(rows) < probability).astype(float)


def test_the_penalty_is_the_strongest_within_one_standard_error_of_the_best() -> None:
    numbers, label = data(400, 0.4)
    fold = np.where(np.arange(400) < 300, np.arange(400) % 5, NOT_FITTED).astype(np.int8)

    def fitted(rows: np.ndarray, c: float) -> np.ndarray:
        mean, deviation = numbers[rows].mean(0), numbers[rows].std(0)
        model = LogisticRegression(C=c, tol=1e-8, max_iter=1_000).fit((numbers[rows] - mean) / deviation, label[rows])
        return model.predict_proba((numbers - mean) / deviation)[:, 1]

    def loss(found: np.ndarray) -> np.ndarray:
        return -np.log(np.where(label > 0, found, 1 - found))

    # (rows, penalties): the loss of each row with its fold left out.
    columns = []
    for c in STRENGTHS:
        column = np.zeros(400)
        for one in range(5):
            column[fold == one] = loss(fitted((fold >= 0) & (fold != one), c))[fold == one]
        columns.append(column[fold >= 0])
    best = min(columns, key=lambda column: column.mean())
    chosen = next(
        c
        for c, column in zip(STRENGTHS, columns, strict=True)
        if (column - best).mean() <= (column - best).std() / len(best) ** 0.5
    )
    np.testing.assert_allclose(predict(numbers, label, fold_A=fold), fitted(fold >= 0, chosen), atol=2e-3)


def test_without_numbers_the_prediction_is_the_rate_of_the_fitted_rows() -> None:
    label = np.array([1.0, 1, 1, 0, 0, 0, 0, 0])
    fold = np.array([0, 1, 2, 3, NOT_FITTED, NOT_FITTED, NOT_FITTED, NOT_FITTED], np.int8)
    assert predict(np.zeros((8, 0)), label, fold_A=fold) == pytest.approx(np.full(8, 0.75))


def test_noise_gets_a_strong_penalty() -> None:
    numbers, label = data(300, 0.0)
    found = predict(numbers, label, fold_A=(np.arange(300) % 5).astype(np.int8))
    assert found.std() < 0.02


def held_out(seed: int = 0) -> tuple[HeldOutAnswers, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 40, 300) * 7
    label = (rng.random(300) < 0.6).astype(float)
    score = np.round(np.clip(0.5 + 0.1 * label + rng.normal(0, 0.2, 300), 0.01, 0.99), 2)
    return HeldOutAnswers(user, label, resamples=100), user, label, score


def test_metrics_equal_those_of_scikit_learn() -> None:
    held, user, label, score = held_out()
    assert held.auc(score).value == pytest.approx(roc_auc_score(label, score))
    assert held.loss(score).value == pytest.approx(log_loss(label, score))
    parts = [(roc_auc_score(label[user == one], score[user == one]), (user == one).sum())
             for one in np.unique(user) if 0 < label[user == one].mean() < 1]  # fmt: skip
    aucs, weights = zip(*parts, strict=True)
    assert held.within_users(score).value == pytest.approx(np.average(aucs, weights=weights))


def test_resamples_equal_samples_of_repeated_users() -> None:
    held, user, label, score = held_out()
    for index in (1, 17, 99):
        weight_A = held.weight_BU[index][np.searchsorted(held.user_U, user)].astype(int)
        again = np.repeat(np.arange(300), weight_A)
        assert held.auc(score).value_B[index - 1] == pytest.approx(roc_auc_score(label[again], score[again]))
        assert held.loss(score).value_B[index - 1] == pytest.approx(log_loss(label[again], score[again]))


def test_pairs_of_users_equal_a_loop() -> None:
    rng = np.random.default_rng(1)
    user, label, score = rng.integers(0, 9, 120), rng.integers(0, 2, 120).astype(float), rng.integers(0, 4, 120) / 4
    good, bad, won = user_pairs(user, label, score, 10)
    for one in range(10):
        theirs, others = score[(user == one) & (label == 1)], score[(user == one) & (label == 0)]
        assert (good[one], bad[one]) == (len(theirs), len(others))
        assert won[one] == sum((a > b) + (a == b) / 2 for a in theirs for b in others)


def test_few_users_have_no_auc_within_users() -> None:
    label = np.array([0.0, 1.0] * 9)
    held = HeldOutAnswers(np.repeat(np.arange(9), 2), label, resamples=10)
    assert np.isnan(held.within_users(label).value)


def test_paired_differences_are_narrower_than_their_parts() -> None:
    held, _, label, score = held_out()
    other = np.clip(score + 0.01 * label, 0, 1)
    first, second = held.auc(score), held.auc(other)

    def width(one: Estimate) -> float:
        return one.high - one.low

    assert width((second - first).estimate(300)) < 0.3 * width(first.estimate(300))


@pytest.mark.parametrize("exponent", [0.0, 0.25, 0.5, 1.0])
def test_the_continued_curve_is_that_of_the_power_law(exponent: float) -> None:
    answers = np.array([250.0, 500.0, 1_000.0, 2_000.0])

    def curve(n: np.ndarray) -> np.ndarray:
        return 3 + 2 * np.log(n) if exponent == 0 else 12 - 40 * n**-exponent

    found, gains = extrapolate(answers, curve(answers)[None])
    assert found[0] == exponent
    last = curve(answers[-1:])[0]
    assert gains[0] == pytest.approx(curve(2_000 * np.array([2.0, 4.0])) - last)


def test_one_level_has_no_curve() -> None:
    exponent, gains = extrapolate(np.array([100.0]), np.array([[1.0]]))
    assert np.isnan(exponent).all() and np.isnan(gains).all()
