"""Who answers: rates by behaviour, concentration, and differences of users, against loops and made-up users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.tools.studies.worth.answered import read_answers
from easq_rec.tools.studies.worth.columns import opened
from easq_rec.tools.studies.worth.responders import AskedImpressions, Responders, shares_of_most, standardised
from tests.tools.studies.worth.logs import by_chance, schema, write_log


def responders(log: Path) -> Responders:
    chosen, requests, answers = opened(log, schema())
    impressions = AskedImpressions(chosen)
    for group in requests.row_groups:
        impressions.add(requests.read(group))
    return impressions.responders(read_answers(chosen, answers, log))


def test_rates_by_behaviour_equal_a_loop(tmp_path: Path) -> None:
    log = write_log(
        tmp_path / "log",
        satisfied=by_chance,
        liked=lambda user, video: np.where(user < 50, 0.5, 0.1),
        answered=lambda user, video: np.where(user < 50, 0.6, 0.2),
        requests=3_000,
    )
    found = responders(log)
    # Every impression is watched for 15 s, so all are triggered.
    shown = [row["candidates"][0] for row in pq.ParquetFile(log / "requests/part.parquet").read().to_pylist()]
    asked = [row["candidates"][0] for row in pq.ParquetFile(log / "answers/part.parquet").read().to_pylist()]
    assert found.triggered and found.impressions == 3_000 and found.answering == 196
    for one in found.patterns:
        if one.behaviour == "like":
            wanted = one.value == "yes"
            assert one.impressions == sum(bool(row["like"]) == wanted for row in shown)
            assert one.answers == sum(bool(row["like"]) == wanted for row in asked)
            rate = one.answers / one.impressions / (len(asked) / len(shown))
            assert one.relative.value == pytest.approx(rate) and one.relative.low < rate < one.relative.high
    # 15 s of 20 s to 30 s.
    assert {one.value for one in found.patterns if one.behaviour == "share watched"} == {"50 to 75%"}
    likes = next(one.difference for one in found.differences if one.behaviour == "like")
    assert likes.low > 0


def test_the_most_active_users_are_those_with_most_impressions() -> None:
    impressions = np.array([100.0, *[10.0] * 9, *[1.0] * 10])
    answers = np.array([5.0, *[1.0] * 9, *[0.0] * 10])
    of_answers, of_impressions = shares_of_most(answers, impressions)
    assert of_answers == pytest.approx(6 / 14) and of_impressions == pytest.approx(110 / 200)
    assert np.isnan(shares_of_most(np.zeros(20), impressions)[0])


def test_answers_in_proportion_to_impressions_differ_in_nothing() -> None:
    impressions, happened = np.array([10.0, 20, 30, 40]), np.array([1.0, 8, 3, 20])
    found = standardised(2 * impressions, impressions, happened)
    assert found is not None and found.value == pytest.approx(0.0, abs=1e-12)


def test_a_standardised_difference_equals_that_of_the_sample() -> None:
    impressions, happened = np.array([10.0, 20, 30, 40]), np.array([1.0, 8, 3, 20])
    answers = np.array([0.0, 3.0, 0.0, 1.0])
    means = np.repeat(happened / impressions, impressions.astype(int))
    wanted = (np.repeat([0.4, 0.5], [3, 1]).mean() - means.mean()) / means.std()
    found = standardised(answers, impressions, happened)
    assert found is not None and found.value == pytest.approx(wanted)
    assert standardised(answers, impressions, 0.3 * impressions) is None


def test_the_interval_of_a_difference_covers_chance() -> None:
    """Users differ in how often they answer, but not by their behaviour: the interval contains 0 in about 95 of 100
    draws."""
    rng = np.random.default_rng(0)
    impressions = rng.integers(1, 60, 400).astype(float)
    happened = rng.binomial(impressions.astype(int), rng.beta(2, 5, 400)).astype(float)
    covered = 0
    for _ in range(1_000):
        ready = rng.exponential(1.0, 400)
        found = standardised(rng.poisson(0.1 * ready * impressions).astype(float), impressions, happened)
        assert found is not None
        covered += found.low <= 0 <= found.high
    assert 920 <= covered <= 980
