"""Statistics of a questionnaire, compared with a loop over impressions."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from easq_rec.config import World
from easq_rec.tools.simulation.world import generate
from easq_rec.tools.studies.questionnaire_stats import auc, measure, overlap

WORLD = World(
    requests=800, users=60, videos=200, history=5, density=300.0, response=0.2, trigger_watch_s=3.0,
    trigger_progress=0.25, response_progress=2.0, questionnaire_seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asked") / "world"
    generate(WORLD, out)
    return out


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_statistics_equal_a_loop(directory: Path) -> None:
    impressions = triggered = shown = 0
    grades = {True: [0] * 5, False: [0] * 5}
    of_user: dict[bool, dict[int, list[float]]] = {True: defaultdict(list), False: defaultdict(list)}
    likes = {0: [0, 0], 1: [0, 0], 2: [0, 0]}
    for row in rows(directory / "requests"):
        for candidate in row["candidates"]:
            impressions += 1
            rule = candidate["watch_ms"] > 3_000 or candidate["watch_ms"] > 0.25 * candidate["duration_ms"]
            triggered += rule
            shown += candidate["shown"]
            for asked in (True, False):
                if candidate["shown"] or not asked:
                    grades[asked][int(candidate["true_satisfaction"])] += 1
                    of_user[asked][row["user_id"]].append(candidate["true_satisfaction"])
    answered = [
        candidate
        for row in rows(directory / "answers")
        for candidate in row["candidates"]
        if candidate["answer"] is not None
    ]
    for candidate in answered:
        likes[candidate["answer"]][0] += candidate["like"]
        likes[candidate["answer"]][1] += 1
    sure = [candidate for candidate in answered if candidate["answer"] != 1]
    found = measure(WORLD, directory)
    assert found["triggered_percent"] == pytest.approx(100 * triggered / impressions)
    assert found["shown_permille"] == pytest.approx(1_000 * shown / impressions)
    assert found["answers"] == len(answered) > 100
    assert found["response_percent"] == pytest.approx(100 * len(answered) / shown)
    truth, score = [candidate["answer"] == 2 for candidate in sure], [c["true_satisfaction"] for c in sure]
    assert found["agreement"] == pytest.approx(roc_auc_score(truth, score)) and found["agreement"] > 0.8
    shares = [np.array(grades[asked]) / sum(grades[asked]) for asked in (True, False)]
    assert found["overlap_percent"] == pytest.approx(100 * (1 - 0.5 * np.abs(shares[0] - shares[1]).sum()))
    users = sorted(of_user[True])
    means = [[np.mean(of_user[asked][user]) for user in users] for asked in (True, False)]
    assert found["user_correlation"] == pytest.approx(np.corrcoef(*means)[0, 1])
    rates = {code: happened / of for code, (happened, of) in likes.items()}
    assert found["like_ratio"] == pytest.approx(rates[2] / rates[0]) and found["returned_ratio"] > 2


def test_without_answers_their_statistics_are_nan(tmp_path: Path) -> None:
    world = World(requests=50, users=20, videos=60, density=0.0)
    generate(world, tmp_path / "silent")
    found = measure(world, tmp_path / "silent")
    assert found["answers"] == found["shown_permille"] == 0 and found["triggered_percent"] > 10
    assert all(np.isnan(found[name]) for name in ("response_percent", "agreement", "overlap_percent", "like_ratio"))


def test_auc_and_overlap_equal_values_computed_by_hand() -> None:
    # Positives have grades 1 and 3, negatives 1 and 2. Ties count half: 0.5 + 0 + 1 + 1 of 4 pairs are in order.
    assert auc(np.array([0.0, 1, 0, 1]), np.array([0.0, 1, 1, 0])) == 2.5 / 4
    assert overlap(np.array([1.0, 1]), np.array([10.0, 30])) == 0.75
