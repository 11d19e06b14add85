"""Weights of evidence and candidates with evidence, compared with loops and hand-counted tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from easq_rec.answers.evidence import AnswerEvidence, Expectations
from easq_rec.config import Replay
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.config.losses import Evidence
from easq_rec.config.schema import Outcome
from easq_rec.data.evidence import EvidenceCandidates
from tests.data.test_replay import REPLIES, START, answered_rows, read, replay_of

SATISFIED, UNCERTAIN, DISSATISFIED = 2, 1, 0


def by_counting(codes: list[int], happened: list[bool], caution: float) -> float:
    """Log odds ratio of a 2 x 2 table; 0 if it is within `caution` standard errors of zero, or a class is empty."""
    if not {SATISFIED, DISSATISFIED} <= set(codes):
        return 0.0
    cells = [
        sum(code == wanted and told is outcome for code, told in zip(codes, happened, strict=True)) + 0.5
        for wanted in (SATISFIED, DISSATISFIED)
        for outcome in (True, False)
    ]
    ratio = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    error = math.sqrt(sum(1 / cell for cell in cells))
    return ratio if abs(ratio) > caution * error else 0.0


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.booleans(), st.booleans()), max_size=40),
    st.integers(0, 45),
    st.sampled_from([0.0, 1.0, 2.0]),
)
@settings(max_examples=80, deadline=None)
def test_weights_equal_log_odds_ratios_of_counts(
    answers: list[tuple[int, bool, bool]], admitted: int, caution: float
) -> None:
    """Uncertain answers and answers after the admitted ones have no effect."""
    codes = np.array([code for code, *_ in answers], np.int8)
    happened = np.array([told for _, *told in answers], bool).reshape(-1, 2)
    found = AnswerEvidence(codes, happened, scale=THREE_ANSWERS, caution=caution).weights(admitted)
    first = answers[:admitted]
    expected = [by_counting([c for c, *_ in first], [told[o] for _, *told in first], caution) for o in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def drawn(rates: tuple[float, float], count: int = 2_000) -> AnswerEvidence:
    """Random answers, half of them satisfied; the outcome has these rates among (satisfied, dissatisfied) answers."""
    rng = np.random.default_rng(0)
    codes = rng.choice([DISSATISFIED, SATISFIED], count)
    happened = rng.random(count) < np.where(codes == SATISFIED, *rates)
    return AnswerEvidence(codes, happened[:, None], scale=THREE_ANSWERS, caution=2.0)


@pytest.mark.parametrize(("rates", "sign"), [((0.3, 0.1), 1), ((0.1, 0.3), -1), ((0.2, 0.2), 0), ((1.0, 1.0), 0)])
def test_the_sign_of_a_weight_follows_the_rates_of_the_outcome(rates: tuple[float, float], sign: int) -> None:
    """The weight is zero if the outcome is equally frequent with both answers, or always happens, like the trigger."""
    weight = float(drawn(rates).weights(2_000)[0])
    assert np.sign(weight) == sign
    if sign:
        truth = math.log(0.3 / 0.7) - math.log(0.1 / 0.9)
        assert abs(weight) == pytest.approx(truth, rel=0.2)


@pytest.mark.parametrize("only", [SATISFIED, DISSATISFIED])
def test_answers_of_one_class_give_no_evidence(only: int) -> None:
    """Without the other class nothing can be compared, however rare or frequent an outcome is."""
    happened = np.zeros((3_000, 3), bool)
    happened[:5, 0] = happened[:2_000, 1] = happened[:, 2] = True
    evidence = AnswerEvidence(np.full(3_000, only, np.int8), happened, scale=THREE_ANSWERS, caution=0.0)
    assert evidence.weights(3_000).tolist() == [0.0, 0.0, 0.0]


def test_few_answers_give_no_evidence() -> None:
    evidence = drawn((0.3, 0.1))
    weights = [float(evidence.weights(admitted)[0]) for admitted in (0, 10, 200, 2_000)]
    assert weights[:2] == [0.0, 0.0] and min(weights[2:]) > 1.0


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.booleans(), st.booleans()), max_size=40),
    st.sampled_from([-1.0, 0.0, 1.5]),
    st.sampled_from([0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_an_expectation_and_the_answers_are_averaged_by_precision(
    answers: list[tuple[int, bool, bool]], mean: float, error: float
) -> None:
    """An outcome without an expectation has the same weight as if no outcome had one."""
    codes = np.array([code for code, *_ in answers], np.int8)
    happened = np.array([outcomes for _, *outcomes in answers], bool).reshape(-1, 2)
    outcomes = [Outcome(name="like", weight=1.0, expected_evidence=mean), Outcome(name="follow", weight=1.0)]
    expected = Expectations.of(outcomes, Evidence(expectation_error=error))
    options = {"scale": THREE_ANSWERS, "caution": 1.0}
    found = AnswerEvidence(codes, happened, expected=expected, **options).weights(len(codes))  # type: ignore[arg-type]
    alone = AnswerEvidence(codes, happened, **options).weights(len(codes))  # type: ignore[arg-type]
    assert found[1] == alone[1]
    if {SATISFIED, DISSATISFIED} <= set(codes.tolist()):
        cells = [
            sum(code == wanted and liked is outcome for code, liked, _ in answers) + 0.5
            for wanted in (SATISFIED, DISSATISFIED)
            for outcome in (True, False)
        ]
        ratio = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
        trust = error**2 / (error**2 + sum(1 / cell for cell in cells))
        assert found[0] == pytest.approx(trust * ratio + (1 - trust) * mean, rel=1e-5, abs=1e-6)
    else:
        assert found[0] == pytest.approx(mean)


def test_many_answers_correct_an_expectation() -> None:
    """From nothing to many answers, the weight goes from what is expected to what they say."""
    rng = np.random.default_rng(0)
    codes = rng.choice([DISSATISFIED, SATISFIED], 20_000)
    happened = rng.random((20_000, 1)) < 0.2
    expected = Expectations(mean_O=np.array([1.0]), error=0.7)
    evidence = AnswerEvidence(codes, happened, scale=THREE_ANSWERS, caution=1.64, expected=expected)
    weights = [float(evidence.weights(admitted)[0]) for admitted in (0, 20_000)]
    assert weights[0] == 1.0 and abs(weights[1]) < 0.1


OUTCOMES = st.lists(st.lists(st.tuples(*[st.integers(0, 1)] * 3), max_size=5), max_size=6)


@given(OUTCOMES, st.sampled_from([None, 0]), st.sampled_from([(0.0, 1.0, -0.5), (0.0, 1.0, 1.0), (0.0, 0.0, 0.0)]))
@settings(max_examples=100, deadline=None)
def test_candidates_with_evidence_equal_a_loop(
    requests: list[list[tuple[int, ...]]], trigger: int | None, weights: tuple[float, ...]
) -> None:
    flat = np.array([outcome for request in requests for outcome in request], np.float32).reshape(-1, 3)
    offsets = np.concatenate([[0], np.cumsum([len(request) for request in requests])]).astype(np.int64)
    found = EvidenceCandidates.find(flat, np.array(weights, np.float32), offsets, trigger)
    candidates, evidence, ends = [], [], [0]
    for request, begin in zip(requests, offsets.tolist(), strict=False):
        triggered = [
            (begin + index, sum(weight for weight, happened in zip(weights, outcome, strict=True) if happened))
            for index, outcome in enumerate(request)
            if trigger is None or outcome[trigger]
        ]
        if len({value for _, value in triggered}) > 1:
            candidates += [candidate for candidate, _ in triggered]
            evidence += [value for _, value in triggered]
            ends.append(len(candidates))
    assert found.candidate_E.tolist() == candidates
    assert found.evidence_E.tolist() == evidence and found.evidence_E.dtype == np.float32
    assert found.offsets.tolist() == ends


def test_an_unknown_outcome_gives_no_evidence() -> None:
    """An outcome that the log does not contain is NaN."""
    outcome_NO: NDArray[np.float32] = np.array([[1, np.nan], [1, 1], [np.nan, 1]], np.float32)
    found = EvidenceCandidates.find(outcome_NO, np.array([0.0, 1.0], np.float32), np.array([0, 3]), 0)
    assert found.candidate_E.tolist() == [0, 1] and found.evidence_E.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("answered", [True, False], ids=["answers", "no answers"])
def test_weights_by_hand_replace_the_estimated_ones(tmp_path: Path, answered: bool) -> None:
    """Outcomes that are not named have weight 0; answers change nothing."""
    requests = read(tmp_path, answered_rows(REPLIES)) if answered else None
    replay = replay_of(requests, Replay(), outcomes=("long_view", "like"), weights={"like": 1.5})
    for until in (0, 600):
        replay.draw(START + until)
        assert replay.evidence().tolist() == [0.0, 1.5] and replay.evidence().dtype == np.float32


@pytest.mark.parametrize("slates", [True, False])
def test_evidence_depends_only_on_the_admitted_answers(tmp_path: Path, slates: bool) -> None:
    """It counts the outcomes of the answered candidates, and it is equal on all ranks."""
    rows = answered_rows(REPLIES)
    liked = {(0, 0): True, (0, 2): False, (2, 0): False, (2, 2): True, (4, 2): False}
    for (row, number), like in liked.items():
        rows[row]["candidates"][number]["like"] = like
    requests = read(tmp_path, rows)
    ranks = [
        replay_of(requests, Replay(), slates=slates, outcomes=("like",), rank=rank, world_size=2) for rank in range(2)
    ]
    assert [replay.evidence().tolist() for replay in ranks] == [[0.0]] * 2
    # At 450 ms two dissatisfied answers without a like and one satisfied answer with a like have arrived.
    for until, cells in ((450, (1, 0, 0, 2)), (600, (2, 1, 0, 2))):
        for replay in ranks:
            replay.draw(START + until)
            a, b, c, d = (cell + 0.5 for cell in cells)
            assert replay.evidence().tolist() == pytest.approx([np.log(a / b) - np.log(c / d)], rel=1e-5)
