"""Hourly metrics of a ranker that learns continuously equal metrics computed at once, for any split of the steps."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from easq_rec.config.schema import Outcome
from easq_rec.data.stream.held_answers import AdmittedAnswers
from easq_rec.evaluation.prequential import (
    HOUR_MS,
    HourlySums,
    MetricBound,
    ScoredStep,
    binned_auc,
    from_values,
    merged,
    metric_names,
    metrics_of,
    to_values,
)
from easq_rec.evaluation.remembered_scores import RememberedScores

OUTCOMES = (Outcome(name="long_view", weight=1.0), Outcome(name="watch_s", weight=0.1, kind="amount"))
REQUESTS, CANDIDATES = 90, 6


def steps_of(seed: int, *, size: int = 10) -> list[ScoredStep]:
    """Requests over three hours in time order, with two outcomes of which some are unknown."""
    rng = np.random.default_rng(seed)
    time_R = np.sort(rng.integers(5 * HOUR_MS, 8 * HOUR_MS, REQUESTS))
    logit_NO = rng.normal(size=(REQUESTS * CANDIDATES, 2)).astype(np.float32)
    viewed_N = (rng.random(len(logit_NO)) < 1 / (1 + np.exp(-logit_NO[:, 0]))).astype(np.float32)
    outcome_NO = np.stack([viewed_N, rng.exponential(size=len(logit_NO)).astype(np.float32)], axis=1)
    outcome_NO[::17, 0] = np.nan
    steps = []
    for begin in range(0, REQUESTS, size):
        rows, items = slice(begin, begin + size), slice(begin * CANDIDATES, (begin + size) * CANDIDATES)
        steps.append(
            ScoredStep(
                timestamp_ms_R=torch.from_numpy(time_R[rows]),
                user_R=torch.arange(begin, begin + len(time_R[rows])) % 7,
                lengths_R=torch.full((len(time_R[rows]),), CANDIDATES),
                served_N=torch.from_numpy(logit_NO[items, 0]),
                outcome_NO=torch.from_numpy(outcome_NO[items]),
                logit_NO=torch.from_numpy(logit_NO[items]),
            )
        )
    return steps


def metrics_at_once(steps: list[ScoredStep], hour: int) -> dict[str, float]:
    """The slow reference: each metric from all candidates of an hour, by scikit-learn."""
    time_R = torch.cat([step.timestamp_ms_R for step in steps]).numpy()
    inside_R = time_R // HOUR_MS == hour
    inside_N = np.repeat(inside_R, CANDIDATES)
    score_N = torch.cat([step.served_N for step in steps]).numpy()[inside_N]
    logit_NO = torch.cat([step.logit_NO for step in steps if step.logit_NO is not None]).double().numpy()[inside_N]
    outcome_NO = torch.cat([step.outcome_NO for step in steps]).double().numpy()[inside_N]
    utility_RC = (np.nan_to_num(outcome_NO) @ [1.0, 0.1]).reshape(-1, CANDIDATES)
    known_N = ~np.isnan(outcome_NO[:, 0])
    probability_N = 1 / (1 + np.exp(-logit_NO[:, 0]))
    return {
        "requests": float(inside_R.sum()),
        "engagement_ndcg5": float(ndcg_score(utility_RC, score_N.reshape(-1, CANDIDATES), k=5)),
        "auc_long_view": float(roc_auc_score(outcome_NO[known_N, 0], logit_NO[known_N, 0])),
        "log_loss_long_view": float(log_loss(outcome_NO[known_N, 0], probability_N[known_N])),
        "ratio_watch_s": float(np.exp(logit_NO[:, 1]).sum() / outcome_NO[:, 1].sum()),
        "rate_long_view": float(outcome_NO[known_N, 0].mean()),
    }


def answers_of(seed: int, count: int = 900) -> tuple[AdmittedAnswers, npt.NDArray[np.float64]]:
    """Answers over two hours, and the scores of their candidates."""
    rng = np.random.default_rng(seed)
    answers = AdmittedAnswers(
        request_id_A=rng.integers(0, 1_000, count),
        item_A=rng.integers(0, 1_000, count),
        time_ms_A=rng.integers(5 * HOUR_MS, 7 * HOUR_MS, count),
        satisfied_A=rng.integers(-1, 2, count).astype(np.int8),
    )
    return answers, rng.normal(size=count) + answers.satisfied_A


def test_answers_are_compared_with_the_scores_of_their_candidates() -> None:
    """On two ranks, each of which has scored a part of the candidates; some are forgotten."""
    (answers, score_A), rng = answers_of(3), np.random.default_rng(4)
    rank_A = rng.integers(0, 3, len(score_A))
    ranks = []
    for rank in range(2):
        scores = RememberedScores()
        mine = rank_A == rank
        scores.add(answers.request_id_A[mine], answers.item_A[mine], score_A[mine].astype(np.float32))
        hours = HourlySums(OUTCOMES)
        hours.add_answers(answers, scores.find(answers), counts=rank == 0)
        ranks.append(hours.ended(9 * HOUR_MS))
    found = merged(ranks)
    assert list(found) == [5 * HOUR_MS, 6 * HOUR_MS]
    for begin, sums in found.items():
        inside_A = answers.time_ms_A // HOUR_MS == begin // HOUR_MS
        ranked_A = inside_A & (rank_A < 2) & (answers.satisfied_A >= 0)
        metrics = metrics_of(sums, OUTCOMES)
        assert metrics["answers"] == inside_A.sum() and metrics["answers_scored"] == (inside_A & (rank_A < 2)).sum()
        expected = roc_auc_score(answers.satisfied_A[ranked_A], score_A[ranked_A])
        assert metrics["auc_answers"] == pytest.approx(expected, abs=0.01)
        assert metrics["requests"] == 0 and np.isnan(metrics["engagement_ndcg5"])


def test_what_was_remembered_first_is_forgotten_first() -> None:
    scores, numbers = RememberedScores(most=10), np.arange(30)
    for begin in range(0, 30, 3):
        part = numbers[begin : begin + 3]
        scores.add(part, part + 1, part.astype(np.float32))
    nothing = np.zeros(30, np.int64)
    answers = AdmittedAnswers(
        request_id_A=numbers, item_A=numbers + 1, time_ms_A=nothing, satisfied_A=nothing.astype(np.int8)
    )
    found = scores.find(answers)
    assert np.isnan(found[:21]).all() and found[21:].tolist() == list(range(21, 30))


def test_the_names_of_metrics_are_known_beforehand() -> None:
    assert "auc_answers" in metric_names(OUTCOMES, answers=True)
    assert not [name for name in metric_names(OUTCOMES, answers=False) if "answers" in name]


@pytest.mark.parametrize("buffered", [1, 4, 100])
def test_an_hour_has_the_metrics_of_all_its_requests(buffered: int) -> None:
    """Whatever steps cut it; the AUC is exact but for ties within a bin of log odds."""
    steps = steps_of(0)
    hours = HourlySums(OUTCOMES, buffered=buffered)
    for step in steps:
        hours.add(step)
    assert list(hours.ended(7 * HOUR_MS + 1)) == [5 * HOUR_MS, 6 * HOUR_MS]
    (last,) = hours.open_hours().items()
    assert last[0] == 7 * HOUR_MS
    again = HourlySums(OUTCOMES, buffered=buffered)
    for step in steps:
        again.add(step)
    for begin, sums in again.ended(99 * HOUR_MS).items():
        found, expected = metrics_of(sums, OUTCOMES), metrics_at_once(steps, begin // HOUR_MS)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=2e-3 if name.startswith("auc") else 1e-6), name


def test_ranks_and_restarts_add_up() -> None:
    """Two ranks with half of the steps each, one of them restarted from a checkpoint, have the sums of one."""
    steps = steps_of(1)
    alone, even, odd = HourlySums(OUTCOMES), HourlySums(OUTCOMES), HourlySums(OUTCOMES)
    for step in steps:
        alone.add(step)
    for step in steps[0:4:2]:
        even.add(step)
    stored = json.loads(json.dumps(to_values(even.open_hours())))
    even = HourlySums(OUTCOMES)
    even.restore(from_values(stored), 0)
    for step in steps[4::2]:
        even.add(step)
    for step in steps[1::2]:
        odd.add(step)
    end = 99 * HOUR_MS
    both, whole = merged([even.ended(end), odd.ended(end)]), alone.ended(end)
    assert list(both) == list(whole)
    for begin, sums in whole.items():
        for name, value in sums.items():
            assert np.allclose(both[begin][name], value), name


def test_late_requests_of_a_reported_hour_count_in_the_next() -> None:
    hours = HourlySums(OUTCOMES)
    first = steps_of(2)[0]
    hours.add(first)
    assert list(hours.ended(6 * HOUR_MS)) == [5 * HOUR_MS]
    assert not hours.may_end(6 * HOUR_MS) and hours.may_end(7 * HOUR_MS)
    hours.add(first)
    assert list(hours.ended(7 * HOUR_MS)) == [6 * HOUR_MS]


def test_auc_of_bins_is_that_of_scores() -> None:
    rng = np.random.default_rng(3)
    place, label = rng.integers(0, 8, 500), rng.random(500) < 0.3
    counts = [np.bincount(place[chosen], minlength=8).astype(float) for chosen in (label, ~label)]
    assert binned_auc(*counts) == pytest.approx(roc_auc_score(label, place))
    assert math.isnan(binned_auc(counts[0], np.zeros(8)))


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [("auc>0.6", 0.7, True), ("auc>0.6", 0.5, False), (" auc < 0.6", 0.5, True), ("auc>0.6", math.nan, False)],
)
def test_conditions(text: str, value: float, holds: bool) -> None:
    condition = MetricBound.of(text)
    assert condition is not None and condition.holds({"auc": value}) == holds
    assert not condition.holds({})


@pytest.mark.parametrize("text", ["", "auc", "auc>", ">1", "auc=3", "auc>x"])
def test_what_is_no_condition(text: str) -> None:
    assert MetricBound.of(text) is None
