"""Study `signal`: lifts compared with a loop over impressions, their intervals, and data that lack columns."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config import World
from easq_rec.tools.simulation.world import generate
from easq_rec.tools.studies import signal
from easq_rec.tools.studies.behaviour_lift import measure


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("signal") / "world"
    generate(World(requests=800, users=100, videos=200, history=5, density=2_000.0), out)
    return out


def impressions(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*.parquet")):
        # Files are read one by one, not as a dataset, so that nested columns are read as they are stored.
        for row in pq.read_table(file, columns=["candidates"]).to_pylist():
            found += row["candidates"]
    return found


def test_lifts_equal_a_loop(world: Path) -> None:
    asked: Counter[str] = Counter()
    after: Counter[tuple[int, str]] = Counter()
    behaviours = ("like", "follow", "comment", "forward", "returned")
    for one in impressions(world / "requests"):
        if one["watch_ms"] > 7_000 or one["watch_ms"] > 0.5 * one["duration_ms"]:
            asked.update({"all": 1} | {name: one[name] for name in behaviours})
    for one in impressions(world / "answers"):
        if one["answer"] is not None:
            after.update({(one["answer"], "all"): 1} | {(one["answer"], name): one[name] for name in behaviours})
    found = measure([world])
    assert found.triggered and found.fixed == ["long_view"] and not found.missing
    assert {lift.behaviour for lift in found.lifts} == set(behaviours)
    for lift in found.lifts:
        code = {"dissatisfied": 0, "satisfied": 2}[lift.answer]
        assert (lift.answers, lift.occurrences) == (after[code, "all"], after[code, lift.behaviour])
        average = asked[lift.behaviour] / asked["all"]
        wanted = 100 * (lift.occurrences / lift.answers / average - 1)
        assert lift.average == pytest.approx(average) and lift.change.value == pytest.approx(wanted)
        assert lift.change.low <= lift.change.value < lift.change.high


def test_lifts_do_not_depend_on_row_groups(world: Path, tmp_path: Path) -> None:
    for name in ("requests", "answers"):
        (tmp_path / name).mkdir()
        table = pa.concat_tables([pq.read_table(file) for file in sorted((world / name).glob("*.parquet"))])
        pq.write_table(table, tmp_path / name / "part.parquet", row_group_size=37)
    whole, parts = measure([world]), measure([tmp_path])
    for one, other in zip(whole.lifts, parts.lifts, strict=True):
        assert dataclasses.astuple(one.change) == pytest.approx(dataclasses.astuple(other.change))


def test_the_interval_agrees_with_a_bootstrap_over_requests(tmp_path: Path) -> None:
    """The delta method is compared with a bootstrap over requests whose impressions are strongly correlated."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        liked = int(rng.random() < 0.4)
        answers = [2 if rng.random() < (0.3 if liked else 0.15) else None for _ in range(4)]
        rows.append([{"like": liked if rng.random() < 0.9 else 1 - liked, "answer": answer} for answer in answers])
    write(tmp_path, rows)
    found = next(lift for lift in measure([tmp_path]).lifts if lift.answer == "satisfied")

    sums = np.array(
        [
            [
                sum(c["like"] for c in row if c["answer"] == 2),
                sum(c["answer"] == 2 for c in row),
                sum(c["like"] for c in row),
                len(row),
            ]
            for row in rows
        ]
    )
    drawn = sums[rng.integers(0, len(rows), (2_000, len(rows)))].sum(axis=1)
    lifts = 100 * (drawn[:, 0] / drawn[:, 1] / (drawn[:, 2] / drawn[:, 3]) - 1)
    low, high = np.quantile(lifts, [0.025, 0.975])
    width = high - low
    assert found.change.low == pytest.approx(low, abs=0.1 * width)
    assert found.change.high == pytest.approx(high, abs=0.1 * width)


def test_without_watch_times_lifts_are_relative_to_all_impressions(tmp_path: Path) -> None:
    rows = [
        [
            {"like": 1, "answer": 2},
            {"like": 0, "answer": 0},
            {"like": None, "answer": None},
            {"like": 0, "answer": None},
        ]
    ] * 6
    write(tmp_path, rows)
    found = measure([tmp_path])
    assert not found.triggered and found.missing == {"like": 6}
    lifts = {lift.answer: lift for lift in found.lifts}
    assert lifts["satisfied"].average == pytest.approx(1 / 3)
    assert lifts["satisfied"].change.value == pytest.approx(200)
    # No occurrence in 6 answers: the rate is at most 3 / 6 with 95% confidence.
    nothing = lifts["dissatisfied"].change
    assert (nothing.value, nothing.low, nothing.high) == pytest.approx((-100, -100, 50))
    assert "all impressions" in signal.verdict(found, "full").claim
    assert any("null in 6" in note for note in signal.notes(found))


def test_a_behaviour_of_all_answered_impressions_is_left_out(tmp_path: Path) -> None:
    rows = [[{"long_view": 1, "answer": answer}, {"long_view": 0, "answer": None}] for answer in (0, 2) * 6]
    write(tmp_path, rows)
    found = measure([tmp_path])
    assert found.fixed == ["long_view"] and not found.lifts
    assert signal.verdict(found, "full").outcome == "undecided" and signal.figures(found)


def test_a_usual_behaviour_is_in_the_table_but_not_in_the_verdict(tmp_path: Path) -> None:
    """Seven of ten impressions are long views, so their lift cannot reach the threshold by far."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2_000):
        good = rng.random() < 0.5
        shown = {
            "long_view": int(rng.random() < (0.9 if good else 0.5)),
            "like": int(rng.random() < (0.4 if good else 0.1)),
        }
        rows.append([shown | {"answer": 2 if good else 0}])
    write(tmp_path, rows)
    found = measure([tmp_path])
    rates = {lift.behaviour: lift.average for lift in found.lifts}
    assert 0.65 < rates["long_view"] < 0.75 and rates["like"] < 0.3
    verdict = signal.verdict(found, "full")
    assert {check.what.split()[0] for check in verdict.checks} == {"like"} and verdict.outcome == "holds"
    assert "| long_view |" in signal.table(found)
    [note] = [note for note in signal.notes(found) if "not part of the verdict" in note]
    assert note.startswith("long_view") and "at most +4" in note


def test_without_answers_the_verdict_is_undecided(tmp_path: Path) -> None:
    write(tmp_path, [[{"like": 1, "answer": None}, {"like": 0, "answer": None}]])
    found = measure([tmp_path])
    assert all(math.isnan(lift.change.value) for lift in found.lifts)
    assert signal.verdict(found, "full").outcome == "undecided"
    assert "not measured" in signal.table(found)
    assert signal.figures(found)


def test_data_without_behaviours_or_answers_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", [[{"video_id": 1, "answer": 2}]])
    with pytest.raises(ValueError, match="none of the columns like, follow"):
        measure([tmp_path / "one"])
    write(tmp_path / "two", [[{"like": 1}]])
    with pytest.raises(ValueError, match="no column answer"):
        measure([tmp_path / "two"])


def write(out: Path, rows: list[list[dict[str, Any]]]) -> None:
    """Writes the same requests to requests/, without the answers, and to answers/."""
    for name in ("requests", "answers"):
        (out / name).mkdir(parents=True)
        kept = [
            [{key: value for key, value in one.items() if name == "answers" or key != "answer"} for one in row]
            for row in rows
        ]
        pq.write_table(pa.table({"candidates": kept}), out / name / "part.parquet", row_group_size=100)
