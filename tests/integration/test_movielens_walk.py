"""The MovieLens commands (prepare, train, evaluate) on a small data set in the format of MovieLens-100K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import Warm
from tests.integration.conftest import SMALL, Call, metrics


def write_raw(raw: Path, *, users: int = 40, films: int = 120, ratings: int = 2_400) -> None:
    """Writes u.data, u.item, u.user and the other files in the format of the public ones."""
    rng = np.random.default_rng(0)
    raw.mkdir()
    pairs = rng.choice(users * films, ratings, replace=False)
    times = np.sort(rng.integers(874_724_710, 893_286_638, ratings))
    rows = zip(pairs // films + 1, pairs % films + 1, rng.integers(1, 6, ratings), times, strict=True)
    (raw / "u.data").write_text("".join(f"{u}\t{f}\t{r}\t{t}\n" for u, f, r, t in rows))
    flags = ["|".join(str(flag) for flag in rng.integers(0, 2, 19)) for _ in range(films)]
    items = (f"{f}|Film {f} (1995)|01-Jan-1995||http://example.org/{f}|{flags[f - 1]}\n" for f in range(1, films + 1))
    (raw / "u.item").write_text("".join(items), encoding="latin-1")
    jobs = ("student", "writer", "other")
    people = (f"{u}|{18 + u % 50}|{'MF'[u % 2]}|{jobs[u % 3]}|12345\n" for u in range(1, users + 1))
    (raw / "u.user").write_text("".join(people))
    (raw / "u.occupation").write_text("".join(f"{job}\n" for job in jobs))
    (raw / "u.genre").write_text("".join(f"genre{index}|{index}\n" for index in range(19)))


@pytest.mark.integration
def test_prepare_train_evaluate(tmp_path: Path, warm: Warm) -> None:
    """The three commands succeed, and the held-out requests are those of the last fifth of the period."""
    raw, data, run_dir = tmp_path / "raw", tmp_path / "data", tmp_path / "run"
    write_raw(raw)
    warm.run(
        warm.python, "datasets/movielens/prepare.py", "--raw", str(raw), "--out", str(data), "--answer-rate", "0.3"
    )
    easq_rec = [warm.python, "-m", "easq_rec.cli"]
    arguments = ["--data", str(data), "--run-dir", str(run_dir), "--trainer.max-steps", "6"]
    warm.run(*easq_rec, "train", "movielens", *arguments, *SMALL)
    table = warm.run(*easq_rec, "evaluate", "--run", str(run_dir)).stdout
    for label in ("satisfaction NDCG@5", "satisfaction NDCG@10", "pair accuracy", "engagement NDCG@5"):
        assert label in table
    final = metrics(run_dir, "final")[0]
    assert 0 < final["satisfaction_ndcg5"] <= 1
    assert 0 < final["pair_accuracy"] < 1
    assert final["requests"] == _requests_in_the_last_fifth(data)
    assert (run_dir / "counts" / "counts.json").is_file()


@pytest.mark.integration
def test_counts_of_answers_are_read_by_the_satisfaction_tower_only(tmp_path: Path, call: Call, warm: Warm) -> None:
    """`movielens_main_only` trains bit by bit alike with and without them. `movielens` needs them: `data counts` adds
    to data without them what the converter writes."""
    raw = tmp_path / "raw"
    write_raw(raw)
    for name, options in (("counted", ()), ("plain", ("--no-answer-counts",))):
        command = ("datasets/movielens/prepare.py", "--raw", str(raw), "--out", str(tmp_path / name))
        warm.run(warm.python, *command, "--answer-rate", "0.3", *options)
    call("data", "counts", tmp_path / "plain", "--recipe", "movielens", "--out", tmp_path / "again")
    for dataset in ("requests", "answers"):
        one, other = (pq.read_table(tmp_path / name / dataset) for name in ("counted", "again"))
        assert one.equals(other)

    def train(recipe: str, data: str, code: int = 0) -> str:
        run = ("--run-dir", tmp_path / f"{recipe}-{data}", "--trainer.max-steps", "6")
        return call("train", recipe, "--data", tmp_path / data, *run, *SMALL, code=code).stderr

    for recipe, data in (("main_only", "counted"), ("main_only", "plain"), ("without_answer_counts", "plain")):
        train(f"movielens_{recipe}", data)
    names = ("loss_main", "loss_pointwise")
    values = [
        [[line.get(name) for name in names] for line in metrics(tmp_path / f"movielens_{name}")]
        for name in ("main_only-counted", "main_only-plain", "without_answer_counts-plain")
    ]
    assert len(values[0]) == 6 and values[0] == values[1] == values[2]
    train("movielens", "counted")
    with_counts = [[line.get(name) for name in names] for line in metrics(tmp_path / "movielens-counted")]
    assert with_counts == values[0], "the counts change the main tower"
    assert "has none of the counts of answers that the schema reads (candidates.video_answer): add them with" in train(
        "movielens", "plain", code=2
    )


def _requests_in_the_last_fifth(data: Path) -> int:
    times = pq.read_table(data / "requests", columns=["timestamp_ms"])["timestamp_ms"].to_numpy()
    cut = times.min() + 0.8 * (times.max() - times.min())
    return int((times >= round(cut)).sum())
