"""The reward of outcomes, compared with scikit-learn's logistic regression on single answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from easq_rec.answers.reward import RewardModel
from easq_rec.config import Replay
from easq_rec.config.answer_scale import FIVE_STARS, THREE_ANSWERS, AnswerScale
from tests.data.test_replay import REPLIES, START, answered_rows, read, replay_of

SATISFIED, UNCERTAIN, DISSATISFIED = 2, 1, 0


def by_scikit_learn(
    codes: NDArray[np.int8], happened_AO: NDArray[np.bool_], ridge: float, scale: AnswerScale = THREE_ANSWERS
) -> NDArray[np.float64]:
    """Weights of a regression on the single answers, (O,)."""
    satisfied, dissatisfied = np.isin(codes, scale.satisfied_codes), np.isin(codes, scale.dissatisfied_codes)
    if not satisfied.any() or not dissatisfied.any():
        return np.zeros(happened_AO.shape[1])
    used = satisfied | dissatisfied
    model = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-9, max_iter=1_000)
    fitted = model.fit(happened_AO[used].astype(np.float64), satisfied[used])
    return np.asarray(fitted.coef_[0])


ANSWERS = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.booleans(), st.booleans(), st.booleans()), max_size=40)


@given(ANSWERS, st.integers(0, 45), st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=80, deadline=None)
def test_weights_equal_those_of_a_regression_on_single_answers(
    answers: list[tuple[int, bool, bool, bool]], admitted: int, ridge: float
) -> None:
    """Also if the outcomes separate the answers, and if one class is missing. Later answers have no effect."""
    codes = np.array([code for code, *_ in answers], np.int8)
    happened = np.array([told for _, *told in answers], bool).reshape(-1, 3)
    found = RewardModel(codes, happened, scale=THREE_ANSWERS, ridge=ridge).weights(admitted)
    expected = by_scikit_learn(codes[:admitted], happened[:admitted], ridge)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def log_of(count: int, scale: AnswerScale = THREE_ANSWERS) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Answers on candidates that all had the trigger. A follow only accompanies a like, which tells of satisfaction."""
    rng = np.random.default_rng(0)
    codes = rng.choice(list(scale.codes.values()), count).astype(np.int8)
    like = rng.random(count) < np.where(np.isin(codes, scale.satisfied_codes), 0.4, 0.1)
    follow = like & (rng.random(count) < 0.5)
    return codes, np.stack([np.ones(count, bool), like, follow], axis=1)


def test_an_outcome_that_accompanies_another_has_no_weight_of_its_own() -> None:
    """Alone, a follow is as strong a sign as a like. An outcome that all answers have has weight 0."""
    codes, happened = log_of(20_000)
    trigger, like, follow = RewardModel(codes, happened, scale=THREE_ANSWERS, ridge=1.0).weights(20_000).tolist()
    truth = np.log(0.4 / 0.6) - np.log(0.1 / 0.9)
    assert trigger == pytest.approx(0.0, abs=1e-5)
    assert like == pytest.approx(truth, abs=0.15) and follow == pytest.approx(0.0, abs=0.15)


@pytest.mark.parametrize("scale", [THREE_ANSWERS, FIVE_STARS], ids=["three answers", "five stars"])
def test_a_fit_depends_only_on_the_number_of_answers(scale: AnswerScale) -> None:
    """Not on earlier fits, so that a resumed run has the same rewards, bit for bit."""
    codes, happened = log_of(600, scale)
    walked = RewardModel(codes, happened, scale=scale, ridge=1.0)
    for admitted in (0, 3, 3, 150, 400, 599, 200, 600):
        fresh = RewardModel(codes, happened, scale=scale, ridge=1.0).weights(admitted)
        assert walked.weights(admitted).tolist() == fresh.tolist()
        expected = by_scikit_learn(codes[:admitted], happened[:admitted], 1.0, scale)
        np.testing.assert_allclose(fresh, expected, rtol=1e-4, atol=1e-5)


def test_few_answers_give_small_rewards() -> None:
    """One like and no other sign: without a penalty, its weight would have no bound."""
    codes, happened = np.array([SATISFIED, DISSATISFIED], np.int8), np.array([[True], [False]])
    weak, strong = (RewardModel(codes, happened, scale=THREE_ANSWERS, ridge=r).weights(2)[0] for r in (1.0, 100.0))
    assert 0.3 < weak < 0.5 and 0 < strong < 0.01


@pytest.mark.parametrize("slates", [True, False])
def test_rewards_depend_only_on_the_admitted_answers(tmp_path: Path, slates: bool) -> None:
    """They read the outcomes of the answered candidates, and they are equal on all ranks."""
    rows = answered_rows(REPLIES)
    liked = {(0, 0): True, (0, 2): False, (2, 0): False, (2, 2): True, (4, 2): False}
    for (row, number), like in liked.items():
        rows[row]["candidates"][number]["like"] = like
    requests = read(tmp_path, rows)
    ranks = [
        replay_of(requests, Replay(), slates=slates, outcomes=("like",), ridge=1.0, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [replay.reward().tolist() for replay in ranks] == [[0.0]] * 2
    # (satisfied with a like, without, dissatisfied with a like, without) that have arrived.
    for until, cells in ((450, (1, 0, 0, 2)), (600, (2, 1, 0, 2))):
        codes = np.repeat([SATISFIED, SATISFIED, DISSATISFIED, DISSATISFIED], cells).astype(np.int8)
        like = np.repeat([True, False, True, False], cells)
        for replay in ranks:
            replay.draw(START + until)
            np.testing.assert_allclose(replay.reward(), by_scikit_learn(codes, like[:, None], 1.0), rtol=1e-4)
    assert replay_of(requests, Replay(), slates=slates, outcomes=("like",)).reward() is None
