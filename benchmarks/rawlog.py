"""A raw log of any size for the builder's benchmarks: impressions in time order, answers, users, videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data import exact

START_MS = 1_704_067_200_000
DAYS = 14
CANDIDATES = 10
"""Impressions per request."""
USER_IMPRESSIONS = 400
VIDEO_IMPRESSIONS = 100
"""Impressions per user and per video, on average."""
ANSWER_RATE = 1e-3
FILE_ROWS = 1_000_000

CONFIG = """
[impressions]
path = "impressions"
[impressions.columns]
user_id = "user_id"
video_id = "video_id"
timestamp = "served_ms"
watch = "watch_ms"
request_id = "request_id"
[impressions.outcomes]
like = "like"
follow = "follow"

[answers]
path = "answers.parquet"
[answers.columns]
user_id = "user_id"
video_id = "video_id"
request_id = "request_id"
timestamp = "answered_ms"
answer = "option"

[users]
path = "users.parquet"
[users.columns]
user_id = "user_id"
valid_from = "since_ms"
[users.features]
age_group = "age_group"
region = "region"
device = "device"

[videos]
path = "videos.parquet"
history = ["author_id"]
[videos.columns]
video_id = "video_id"
duration = "duration_ms"
valid_from = "since_ms"
[videos.features]
author_id = "author_id"
tags = { column = "tags", type = "ids" }

[questionnaire.options]
"not for me" = 0
"not sure" = 1
"glad I saw it" = 2
"""
OPTIONS = np.array(["not for me", "not sure", "glad I saw it"])


def write_log(folder: Path, impressions: int, seed: int = 0) -> Path:
    """Writes the tables and `logs.toml`, a million impressions at a time; returns the path of `logs.toml`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    users, videos = max(impressions // USER_IMPRESSIONS, 1), max(impressions // VIDEO_IMPRESSIONS, 1)
    _write_users(rng, folder, users)
    durations = _write_videos(rng, folder, videos)
    (folder / "impressions").mkdir()
    answers = []
    for number, begin in enumerate(range(0, impressions, FILE_ROWS)):
        rows = min(FILE_ROWS, impressions - begin)
        table = _impressions(rng, begin, rows, impressions, users, durations)
        pq.write_table(table, folder / "impressions" / f"{number:05d}.parquet", compression="zstd")
        answers.append(_answers(rng, table))
    pq.write_table(pa.concat_tables(answers), folder / "answers.parquet")
    (folder / "logs.toml").write_text(CONFIG)
    return folder / "logs.toml"


def _impressions(
    rng: np.random.Generator, begin: int, rows: int, total: int, users: int, durations: np.ndarray
) -> pa.Table:
    """Rows `begin` to `begin + rows` of the log; a request's candidates follow one another within seconds."""
    request = (begin + np.arange(rows)) // CANDIDATES
    slot = (begin + np.arange(rows)) % CANDIDATES
    first = request - request[0]
    count = int(first[-1]) + 1
    # Popularity and activity are skewed: the square of a uniform number.
    user = (users * rng.random(count) ** 2).astype(np.int64)[first]
    video = (len(durations) * rng.random(rows) ** 2).astype(np.int64)
    spread = DAYS * 86_400_000 * CANDIDATES / total
    at = START_MS + (request * spread).astype(np.int64) + slot * 4_000
    share = np.where(rng.random(rows) < 0.2, 0.0, rng.random(rows) * 1.1)
    return pa.table(
        {
            "user_id": user,
            "video_id": video * 7_919,
            "request_id": request,
            "served_ms": at,
            "watch_ms": (share * durations[video]).astype(np.int32),
            "like": (rng.random(rows) < 0.05).astype(np.int8),
            "follow": (rng.random(rows) < 0.01).astype(np.int8),
        }
    )


def _answers(rng: np.random.Generator, impressions: pa.Table) -> pa.Table:
    rows = np.flatnonzero(rng.random(len(impressions)) < ANSWER_RATE)
    about = impressions.select(["user_id", "video_id", "request_id"]).take(rows)
    delay = (3_600_000 * exact.exponential(rng, len(rows))).astype(np.int64)
    about = about.append_column("answered_ms", pa.array(impressions["served_ms"].to_numpy()[rows] + delay))
    return about.append_column("option", pa.array(OPTIONS[rng.integers(0, 3, len(rows))]))


def _write_users(rng: np.random.Generator, folder: Path, users: int) -> None:
    """Writes two versions of each user: one before the log and one in its middle."""
    ids = np.tile(np.arange(users), 2)
    since = np.repeat([START_MS - 86_400_000, START_MS + DAYS * 43_200_000], users)
    columns = {
        name: rng.integers(0, size, 2 * users) for name, size in (("age_group", 8), ("region", 32), ("device", 4))
    }
    pq.write_table(pa.table({"user_id": ids, "since_ms": since, **columns}), folder / "users.parquet")


def _write_videos(rng: np.random.Generator, folder: Path, videos: int) -> np.ndarray:
    """Writes two versions of each video; returns their durations in milliseconds."""
    durations = rng.integers(5_000, 120_000, videos)
    lengths = rng.integers(0, 4, 2 * videos)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    tags = pa.ListArray.from_arrays(pa.array(offsets), pa.array(rng.integers(0, 256, offsets[-1])))
    table = {
        "video_id": np.tile(np.arange(videos) * 7_919, 2),
        "since_ms": np.repeat([START_MS - 86_400_000, START_MS + DAYS * 43_200_000], videos),
        "duration_ms": np.tile(durations, 2),
        "author_id": np.tile(rng.integers(0, max(videos // 8, 1), videos), 2),
        "tags": tags,
    }
    pq.write_table(pa.table(table), folder / "videos.parquet")
    return durations
