"""The synthetic world: contract of the files, as-of history, questionnaire, calibration, publishing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.data.writer import required
from easq_rec.tools.simulation import time_line, world
from easq_rec.tools.simulation.first_world import calibrate, utilities
from easq_rec.tools.simulation.latents import Latents, draw_latents
from easq_rec.tools.simulation.models import create_model

SMALL = World(
    version=1, requests=3_000, users=200, videos=400, candidates=6, history=9, density=2_000.0, days=3.0, seed=5
)


def list_of(element: pa.DataType) -> pa.DataType:
    """A list type whose child is named as in Parquet."""
    return pa.list_(pa.field("element", element))


USER = pa.struct([("age_group", pa.int64()), ("region", pa.int64()), ("device", pa.int64())])
HISTORY = pa.struct(
    [("video_id", pa.int64()), ("author_id", pa.int64()), ("timestamp_ms", pa.int64()), ("watch_ratio", pa.float32())]
)
CANDIDATE = [
    ("video_id", pa.int64()),
    ("author_id", pa.int64()),
    ("tags", list_of(pa.int64())),
    ("duration_ms", pa.int32()),
    ("watch_ms", pa.int32()),
    ("long_view", pa.int8()),
    ("like", pa.int8()),
    ("follow", pa.int8()),
    ("comment", pa.int8()),
    ("forward", pa.int8()),
    ("returned", pa.int8()),
    ("shown", pa.int8()),
    ("true_satisfaction", pa.float32()),
    ("true_engagement", pa.float32()),
]
ANSWER = [("answer", pa.int8()), ("answered_at_ms", pa.int64())]
COUNT = pa.struct([("shown", pa.float32()), ("happened", pa.float32()), ("prior", pa.float32())])
COUNTS = [
    *(
        (f"{key}_{outcome}", COUNT)
        for key in ("video", "author", "tags", "user", "user_duration_class", "user_tags")
        for outcome in ("long_view", "like", "follow")
    ),
    ("video_answer", COUNT),
    ("author_answer", COUNT),
]
"""Keys and outcomes of the usual counts, then the counts of answers, in the order of the columns."""


def row_schema(candidate: list[tuple[str, pa.DataType]], *, answered: bool = True) -> pa.Schema:
    optional = [f"candidates.list.element.{name}" for name, _ in ANSWER] if answered else []
    return required(
        pa.schema(
            [
                ("request_id", pa.int64()),
                ("user_id", pa.int64()),
                ("timestamp_ms", pa.int64()),
                ("user", USER),
                ("history", list_of(HISTORY)),
                ("candidates", list_of(pa.struct(candidate))),
            ]
        ),
        optional,
    )


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def parts(folder: Path) -> list[pq.ParquetFile]:
    return [pq.ParquetFile(path) for path in sorted(folder.glob("part-*.parquet"))]


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([part.read() for part in parts(folder)])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "small"
    world.ensure(SMALL, out)
    return out


def test_files_have_the_columns_and_types_of_the_contract(small: Path) -> None:
    requests, answers = parts(small / "requests"), parts(small / "answers")
    for part in requests:
        assert part.schema_arrow.equals(row_schema(CANDIDATE + COUNTS))
    for part in answers:
        assert part.schema_arrow.equals(row_schema(CANDIDATE + ANSWER + COUNTS))
    groups = [part.metadata.row_group(i) for part in requests for i in range(part.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [2_048, 952]
    assert {group.column(0).compression for group in groups} == {"ZSTD"}
    assert {type(value) for value in json.loads((small / "world.json").read_text())["config"].values()} == {
        int,
        float,
        type(None),
    }


def test_requests_are_complete_distinct_and_in_time_order(small: Path) -> None:
    table = read(small / "requests")
    assert table["request_id"].to_pylist() == list(range(SMALL.requests))
    times = table["timestamp_ms"].to_numpy()
    assert (np.diff(times) > 0).all()
    assert times[0] >= world.START_MS and times[-1] < world.START_MS + SMALL.days * 86_400_000
    assert table.column("user_id").null_count == table.column("candidates").null_count == 0
    for row in table.slice(0, 500).to_pylist():
        videos = [candidate["video_id"] for candidate in row["candidates"]]
        assert len(set(videos)) == SMALL.candidates and set(videos) <= set(range(SMALL.videos))
        assert row["user"]["age_group"] in range(8) and row["user"]["region"] in range(32)
        assert row["user"]["device"] in range(8)
        for candidate in row["candidates"]:
            assert 1 <= len(candidate["tags"]) == len(set(candidate["tags"])) <= 3
            assert set(candidate["tags"]) <= set(range(256))
            assert candidate["author_id"] in range(SMALL.videos // 8)
            assert candidate["true_satisfaction"] in (0.0, 1.0, 2.0, 3.0, 4.0)
            assert 0 < candidate["true_engagement"] < 1
            assert candidate["duration_ms"] >= 3_000 and candidate["watch_ms"] >= 0


def test_history_is_exactly_what_the_user_watched_before(small: Path) -> None:
    watched: dict[int, list[dict[str, object]]] = {}
    longest = 0
    for row in read(small / "requests").to_pylist():
        past = watched.setdefault(row["user_id"], [])
        assert row["history"] == past[-SMALL.history :]
        assert all(entry["timestamp_ms"] < row["timestamp_ms"] for entry in row["history"])
        longest = max(longest, len(past))
        past.extend(
            {
                "video_id": candidate["video_id"],
                "author_id": candidate["author_id"],
                "timestamp_ms": row["timestamp_ms"],
                "watch_ratio": float(np.float32(candidate["watch_ms"] / candidate["duration_ms"])),
            }
            for candidate in row["candidates"]
            if candidate["long_view"]
        )
    assert longest > 3 * SMALL.history, "the ring buffer must wrap around for this test to be meaningful"


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_ring_buffer_may_be_shorter_than_a_request(length: int) -> None:
    histories = world.Histories(users=3, length=length)
    expected: dict[int, list[int]] = {0: [], 1: [], 2: []}
    rng = np.random.default_rng(length)
    for step in range(6):
        users = rng.permutation(3)[:2]
        videos = rng.integers(0, 1_000, (2, 4))
        watched = rng.random((2, 4)) < 0.7
        ratio = np.ones((2, 4), dtype=np.float32)
        histories.append(users, videos, np.full(2, step), ratio, watched)
        for row, user in enumerate(users):
            expected[user] += videos[row][watched[row]].tolist()
        lengths, seen, _, _ = histories.read(np.arange(3))
        assert [seen[user, : lengths[user]].tolist() for user in range(3)] == [
            expected[user][-length:] for user in range(3)
        ]


def test_only_triggered_impressions_are_answered_and_only_later(small: Path) -> None:
    requests = {row["request_id"]: row for row in read(small / "requests").to_pylist()}
    table = read(small / "answers")
    assert (np.diff(table["timestamp_ms"].to_numpy()) > 0).all()
    triggered = answered = 0
    for row in requests.values():
        for candidate in row["candidates"]:
            rule = candidate["watch_ms"] > 7_000 or candidate["watch_ms"] > 0.5 * candidate["duration_ms"]
            assert candidate["long_view"] == rule
            later = ("like", "follow", "comment", "forward", "returned", "shown")
            assert rule or not any(candidate[name] for name in later)
            triggered += rule
    for row in table.to_pylist():
        count = 0
        for candidate in row["candidates"]:
            answer, at = candidate.pop("answer"), candidate.pop("answered_at_ms")
            assert (answer is None) == (at is None)
            if answer is not None:
                assert candidate["long_view"] == candidate["shown"] == 1 and answer in (0, 1, 2)
                assert 60_000 <= at - row["timestamp_ms"] <= 2 * 86_400_000
                count += 1
        assert count >= 1
        assert row == requests[row["request_id"]], "an answered request has all columns and candidates of the request"
        answered += count
    assert abs(answered / triggered - SMALL.answer_rate) < 4 * (SMALL.answer_rate / triggered) ** 0.5


def test_the_seed_determines_the_bytes_of_a_world(small: Path, tmp_path: Path) -> None:
    world.generate(SMALL, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(small)
    world.generate(dataclasses.replace(SMALL, seed=6), tmp_path / "other")
    assert not read(tmp_path / "other" / "requests").equals(read(small / "requests"))


def test_a_world_without_answers_still_has_their_schema(tmp_path: Path) -> None:
    world.ensure(dataclasses.replace(SMALL, requests=50, density=0.0), tmp_path / "silent")
    table = read(tmp_path / "silent" / "answers")
    assert table.num_rows == 0 and table.schema.equals(row_schema(CANDIDATE + ANSWER + COUNTS, answered=False))


@pytest.mark.parametrize(
    "tiny",
    [
        World(version=1, requests=1, users=1, videos=1, candidates=1, history=1),
        World(version=1, requests=9, users=2, videos=7, candidates=7, history=3, days=1e-7, density=10_000.0),
        World(version=1, requests=40, users=3, videos=12, candidates=11),
    ],
)
def test_tiny_worlds_can_be_generated(tiny: World, tmp_path: Path) -> None:
    world.ensure(tiny, tmp_path / "tiny")
    table = read(tmp_path / "tiny" / "requests")
    assert table.num_rows == tiny.requests and (np.diff(table["timestamp_ms"].to_numpy()) > 0).all()
    for row in table.to_pylist():
        assert len({candidate["video_id"] for candidate in row["candidates"]}) == tiny.candidates


def test_large_rounds_are_split_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (world, time_line):
        monkeypatch.setattr(module, "ROW_GROUP", 64)
    world.generate(dataclasses.replace(SMALL, requests=1_200), tmp_path / "parts")
    found = parts(tmp_path / "parts" / "requests")
    assert [part.metadata.num_row_groups for part in found] == [8, 8, 3]
    assert pa.concat_tables([part.read() for part in found])["request_id"].to_pylist() == list(range(1_200))


def test_ensure_keeps_an_existing_world_and_refuses_another(small: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    world.ensure(SMALL, small)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    with pytest.raises(ValueError, match=r"world.seed is 5, not 6.*delete it or choose another directory"):
        world.ensure(dataclasses.replace(SMALL, seed=6), small)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="has no complete world"):
        world.ensure(SMALL, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ValueError, match="has no complete world"):
        world.generate(SMALL, tmp_path / "file")
    with pytest.raises(ValueError, match=r"world.seed=-1 is not allowed: 0 or more"):
        world.generate(dataclasses.replace(SMALL, seed=-1), tmp_path / "negative")


def test_publishing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "deep" / "world"
    config = dataclasses.replace(SMALL, requests=50)
    write, rename = world._write, os.rename

    def failing(config: World, folder: Path) -> None:
        write(config, folder)
        temporary = folder.parent
        assert not out.exists() and str(os.getpid()) in temporary.name and temporary.parent == out.parent
        raise RuntimeError("disk full")

    monkeypatch.setattr(world, "_write", failing)
    with pytest.raises(RuntimeError, match="disk full"):
        world.generate(config, out)
    assert list(out.parent.iterdir()) == []
    monkeypatch.setattr(world, "_write", write)

    def overtaken(source: Path, target: Path) -> None:
        """Simulates another process that publishes the world just before this rename."""
        if target != out:
            return rename(source, target)
        monkeypatch.setattr(os, "rename", rename)
        world.generate(config, out)
        (out / "world.json").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    world.generate(config, out)
    assert [path.name for path in out.parent.iterdir()] == ["world"]
    assert world.is_complete(config, out)


@pytest.mark.parametrize("videos", [12, 100])
def test_fast_candidates_follow_the_exact_policy(videos: int) -> None:
    latents = draw_latents(World(version=1, users=5, videos=videos, candidates=4, seed=3))
    rng = np.random.default_rng(0)
    users = np.full(10_000, 2)

    def shares(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.bincount(drawn.ravel(), minlength=videos) / drawn.size

    fast, exact = latents.candidates(rng, users, 4), latents._candidates_exact(rng, users, 4)
    # The total variation distance of two samples is not 0, because of chance.
    assert 0.5 * np.abs(shares(fast) - shares(exact)).sum() < 0.05
    assert 0.5 * np.abs(shares(fast[:, :1]) - shares(exact[:, :1])).sum() < 0.10


def outcomes(config: World) -> tuple[Latents, dict[str, NDArray[Any]]]:
    model = create_model(config)
    rounds = list(world.simulate(model))
    names = [field.name for field in dataclasses.fields(model.round_type)]
    return model.latents, {name: np.concatenate([getattr(part, name) for part in rounds]) for name in names}


def ndcg_at_5(score: NDArray[Any], relevance: NDArray[Any]) -> float:
    """Mean NDCG@5 over requests (rows), with linear gains."""
    discount = 1 / np.log2(np.arange(2, 7))
    top = np.take_along_axis(relevance, np.argsort(-score, axis=1, kind="stable")[:, :5], axis=1)
    best = -np.sort(-relevance, axis=1)[:, :5]
    return float(np.mean((top * discount).sum(axis=1) / np.maximum((best * discount).sum(axis=1), 1e-9)))


@pytest.mark.parametrize("seed", [0, 1])
def test_behaviour_grades_and_engagement_are_calibrated(seed: int) -> None:
    """Behaviour by answer is as in the paper's Figure 3. Grades and their relation to engagement are as intended."""
    config = World(version=1, requests=20_000, users=2_000, videos=4_000, density=10_000.0, seed=seed)
    latents, log = outcomes(config)
    answered = log["answer"] != world.NO_ANSWER
    assert answered.sum() > 50_000
    for outcome in ("like", "follow", "comment", "forward", "returned"):
        average = log[outcome][answered].mean()
        relative = [log[outcome][log["answer"] == answer].mean() / average - 1 for answer in range(3)]
        assert 0.46 <= relative[2] <= 0.80, (outcome, relative)
        assert -0.83 <= relative[0] <= -0.25, (outcome, relative)
        assert relative[0] < relative[1] < relative[2]
    shares = np.bincount(log["answer"][answered]) / answered.sum()
    assert 0.20 <= shares[0] <= 0.26 and shares.argmax() == 2

    grades = np.bincount(log["true_satisfaction"].ravel().astype(int), minlength=5) / log["video"].size
    assert len(grades) == 5 and (grades >= 0.10).all() and (grades <= 0.30).all()

    assert abs(log["true_engagement"].mean() - log["long_view"].mean()) < 0.005
    correlation = np.corrcoef(log["true_engagement"].ravel(), log["true_satisfaction"].ravel())[0, 1]
    assert 0.1 < correlation < 0.5
    chance = ndcg_at_5(np.random.default_rng(0).random(log["video"].shape), log["true_satisfaction"])
    by_engagement = ndcg_at_5(log["true_engagement"], log["true_satisfaction"])
    assert chance + 0.05 < by_engagement < 0.8

    # Ids predict clickbait: it depends strongly on the author. It lowers satisfaction and raises engagement.
    by_author = np.bincount(latents.author, weights=latents.clickbait) / np.maximum(np.bincount(latents.author), 1)
    assert np.corrcoef(by_author[latents.author], latents.clickbait)[0, 1] > 0.6
    bait = latents.clickbait[log["video"]].ravel()
    assert np.corrcoef(bait, log["true_engagement"].ravel())[0, 1] > 0.2
    assert np.corrcoef(bait, log["true_satisfaction"].ravel())[0, 1] < -0.2


def test_the_paper_s_questionnaire_is_the_default_and_density_scales_its_answers() -> None:
    assert (World().exposure, World().response, World().density) == (0.005, 0.02, 1.0)
    for density, shown_rate, answer_rate in ((1.0, 0.005, 1e-4), (100.0, 0.5, 1e-2), (1_000.0, 1.0, 0.1)):
        config = World(version=1, requests=20_000, users=2_000, videos=4_000, density=density)
        assert (config.shown_rate, config.answer_rate) == pytest.approx((shown_rate, answer_rate))
        _, log = outcomes(config)
        triggered = log["long_view"] == 1
        answered = log["answer"] != world.NO_ANSWER
        assert not (answered & (log["shown"] == 0)).any()
        for share, rate in ((log["shown"][triggered], shown_rate), (answered[triggered], answer_rate)):
            assert abs(share.mean() - rate) <= 4 * (rate / triggered.sum()) ** 0.5
    with pytest.raises(ValueError, match=r"world.density=10001.0 is not allowed: 0 or more, and at most 10000"):
        World(density=10_001.0)


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.3, 0.6])
def test_rho_is_the_correlation_of_satisfaction_and_engagement(rho: float) -> None:
    config = World(version=1, requests=10_000, users=2_000, videos=4_000, rho=rho)
    latents = draw_latents(config)
    calibration = calibrate(latents, config)
    rng = np.random.default_rng(9)
    users = rng.integers(0, config.users, 5_000)
    videos = latents.candidates(rng, users, 12)
    engage, satisfy = utilities(
        latents, users, videos, calibration.affinity_mean, calibration.affinity_std, calibration.aversion
    )
    assert np.corrcoef(engage.ravel(), satisfy.ravel())[0, 1] == pytest.approx(rho, abs=0.03)
    # Behaviour is still correlated with the answers.
    _, log = outcomes(dataclasses.replace(config, density=10_000.0))
    answered = log["answer"] != world.NO_ANSWER
    likes = [log["like"][log["answer"] == answer].mean() / log["like"][answered].mean() - 1 for answer in (0, 2)]
    assert likes[0] < -0.25 and likes[1] > 0.4


def test_an_unattainable_correlation_is_refused() -> None:
    config = World(version=1, requests=100, users=500, videos=1_000, rho=0.99)
    with pytest.raises(ValueError, match=r"world.rho=0.99 is not allowed: between -0\.\d+ and 0\.\d+ with these users"):
        calibrate(draw_latents(config), config)
