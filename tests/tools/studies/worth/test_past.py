"""Means of what happened before an answered impression, against loops over the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.tools.studies.worth.answered import Answered, read_answers
from easq_rec.tools.studies.worth.columns import opened
from easq_rec.tools.studies.worth.past import Past, bucket_minutes, past_answers, past_behaviour, strength
from tests.tools.studies.worth.logs import by_video, schema, write_log

MINUTES = 60
VALUE = {0: 0.0, 1: 0.5, 2: 1.0}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(
        tmp_path_factory.mktemp("past") / "log", satisfied=by_video, copies=True, users=20, videos=15, requests=1_500
    )


def read(log: Path) -> Answered:
    chosen, _, answers = opened(log, schema())
    return read_answers(chosen, answers, log)


def rows(folder: Path) -> list[dict[str, object]]:
    found = []
    for row in pq.ParquetFile(folder / "part.parquet").read().to_pylist():
        found.append({**row["candidates"][0], "user_id": row["user_id"], "at": row["timestamp_ms"]})
    return sorted(found, key=lambda one: one["at"])


def bucket(time_ms: int) -> int:
    return time_ms // (MINUTES * 60_000) * MINUTES * 60_000


def same(one: dict[str, object], other: dict[str, object], key: str) -> float:
    """How much of an earlier row counts for a row: the share of the row's tags that it has."""
    if key == "tags":
        return float(np.mean([one["tags"].count(tag) for tag in other["tags"]]))
    return float(one[key] == other[key])


def test_past_behaviour_equals_a_loop(log: Path) -> None:
    chosen, requests, _ = opened(log, schema())
    answered = read(log)
    found = past_behaviour(chosen, answered, requests, minutes=MINUTES)
    shown, asked = rows(log / "requests"), rows(log / "answers")
    assert {key for key, _ in found} == {"video_id", "tags", "user_id"}
    assert {name for _, name in found} == {"like", "share watched"}
    for index in range(0, len(asked), 61):
        one = asked[index]
        # Known before the bucket of time began, the watch included.
        known = [row for row in shown if row["at"] + row["watch_ms"] < bucket(one["at"])]
        for (key, name), past in found.items():
            weights = np.array([same(row, one, key) for row in known])
            values = np.array(
                [row["like"] if name == "like" else min(row["watch_ms"] / row["duration_ms"], 1) for row in known]
            )
            assert past.shown_A[index] == pytest.approx(weights.sum())
            assert past.sum_A[index] == pytest.approx((weights * values).sum() if len(known) else 0.0)
            assert past.all_A[index] == len(known)
            assert past.prior_A[index] == pytest.approx((values.sum() + 0.5) / (len(known) + 1))


@pytest.mark.parametrize("without_own", [False, True])
def test_past_answers_equal_a_loop(log: Path, without_own: bool) -> None:
    answered = read(log)
    known_A = np.arange(len(answered)) % 3 > 0
    found = past_answers(answered, known_A, minutes=MINUTES, without_own=without_own)
    asked = rows(log / "answers")
    assert set(found) == {"video_id", "tags"} | (set() if without_own else {"user_id"})
    for index in range(0, len(asked), 37):
        one = asked[index]
        known = [
            row
            for row, exists in zip(asked, known_A, strict=True)
            if exists and row["answered_at_ms"] < bucket(one["at"])
            if not without_own or row["user_id"] != one["user_id"]
        ]
        for key, past in found.items():
            weights = np.array([same(row, one, key) for row in known])
            values = np.array([VALUE[row["answer"]] for row in known])
            assert past.shown_A[index] == pytest.approx(weights.sum())
            assert past.sum_A[index] == pytest.approx((weights * values).sum() if len(known) else 0.0)


def test_the_future_does_not_change_the_past(log: Path, tmp_path: Path) -> None:
    """Another log that differs only after a time has the same means before it."""
    for name in ("requests", "answers"):
        table = pq.ParquetFile(log / name / "part.parquet").read().to_pylist()
        schema_ = pq.read_schema(log / name / "part.parquet")
        middle = sorted(row["timestamp_ms"] for row in table)[len(table) // 2]
        for row in table:
            if row["timestamp_ms"] >= bucket(middle):
                for candidate in row["candidates"]:
                    candidate["like"] = 1 - candidate["like"]
                    if candidate.get("answer") is not None:
                        candidate["answer"] = 2 - candidate["answer"]
        (tmp_path / name).mkdir()
        pq.write_table(
            pq.ParquetFile(log / name / "part.parquet").read().from_pylist(table, schema=schema_),
            tmp_path / name / "part.parquet",
        )
    before = {}
    for place in (log, tmp_path):
        chosen, requests, _ = opened(place, schema())
        answered = read(place)
        early = answered.request_ms_A < bucket(int(np.median(answered.request_ms_A))) - 2 * MINUTES * 60_000
        behaviour = past_behaviour(chosen, answered, requests, minutes=MINUTES)
        answers = past_answers(answered, np.ones(len(answered), bool), minutes=MINUTES)
        before[place] = [past.sum_A[early] for past in (*behaviour.values(), *answers.values())]
        assert any(past.sum_A[~early].any() for past in answers.values())
    for one, other in zip(before[log], before[tmp_path], strict=True):
        np.testing.assert_array_equal(one, other)


def past(shown: np.ndarray, happened: np.ndarray, prior: float) -> Past:
    return Past(
        shown_A=shown.astype(float),
        sum_A=happened.astype(float),
        prior_A=np.full(len(shown), prior),
        all_A=np.full(len(shown), float(shown.sum())),
    )


@pytest.mark.parametrize("wanted", [4.0, 50.0])
def test_the_strength_is_that_of_the_beta_distribution_that_rates_come_from(wanted: float) -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(5, 200, 4_000)
    happened = rng.binomial(shown, rng.beta(0.3 * wanted, 0.7 * wanted, len(shown)))
    found = strength(past(shown, happened, 0.3), np.arange(len(shown)), np.ones(len(shown), bool))
    assert found == pytest.approx(wanted, rel=0.1)


def test_ids_that_do_not_differ_are_shrunk_to_the_overall_mean() -> None:
    rng = np.random.default_rng(0)
    shown = rng.integers(5, 200, 2_000)
    one = past(shown, rng.binomial(shown, 0.3), 0.3)
    found = strength(one, np.arange(len(shown)), np.ones(len(shown), bool))
    assert found > 1_000 and np.abs(one.effect(found)).max() < 0.3
    assert not past(np.zeros(3), np.zeros(3), 0.3).effect(20.0).any()


def test_of_each_id_the_latest_row_counts() -> None:
    shown, happened = np.array([1, 9, 4, 1, 8, 5, 6, 7]), np.array([1, 3, 4, 1, 8, 0, 6, 1])
    group = np.array([0, 0, 1, 2, 2, 3, 4, 5])
    latest = [1, 2, 4, 5, 6, 7]
    among = np.ones(8, bool)
    only = strength(past(shown[latest], happened[latest], 0.5), np.arange(6), np.ones(6, bool))
    assert strength(past(shown, happened, 0.5), group, among) == only


def test_buckets_are_long_for_long_logs(log: Path) -> None:
    answered = read(log)
    assert bucket_minutes(answered) == 60
