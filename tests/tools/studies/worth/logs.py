"""Logs whose satisfaction, likes and answers follow given probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table

HOUR_MS = 3_600_000
START_MS = 1_767_225_600_000
Of = Callable[[Any, Any], Any]
"""Probability by (user, video), arrays of the same length."""


def schema(answers: AnswerScale = THREE_ANSWERS) -> FeatureSchema:
    """Users, videos, their tags and durations; the outcome is a like."""
    return FeatureSchema(
        tables=tuple(Table(name=name, rows=1_024, dim=8) for name in ("user", "video", "tag")),
        user=(Feature(name="user_id", table="user"),),
        history=(Feature(name="video_id", table="video"),),
        candidate=(
            Feature(name="video_id", table="video"),
            Feature(name="tags", kind="id_list", table="tag"),
            Feature(name="duration_ms", kind="float", transform="log1p"),
        ),
        outcomes=(Outcome(name="like", weight=1.0),),
        answers=answers,
    )


def write_log(
    out: Path,
    *,
    satisfied: Of,
    liked: Of = lambda user, video: np.full(len(user), 0.1),
    answered: Of = lambda user, video: np.full(len(user), 0.5),
    copies: bool = False,
    users: int = 200,
    videos: int = 100,
    requests: int = 6_000,
    codes: tuple[int, int] = (0, 2),
    seed: int = 0,
) -> Path:
    """One impression per request, one request per minute, on average; an answer comes half an hour later.

    Args:
        copies: a like says whether the impression satisfied, in nine of ten cases.
        codes: of a dissatisfied and of a satisfied answer.
    """
    rng = np.random.default_rng(seed)
    user, video = rng.integers(0, users, requests), rng.integers(0, videos, requests)
    good = rng.random(requests) < satisfied(user, video)
    like = np.where(rng.random(requests) < 0.9, good, ~good) if copies else rng.random(requests) < liked(user, video)
    given = rng.random(requests) < answered(user, video)
    time_ms = START_MS + np.sort(rng.integers(0, requests * 60_000, requests))
    rows = []
    for index in range(requests):
        candidate = {
            "video_id": int(video[index]),
            "tags": [int(video[index]) % 7, int(video[index]) % 5],
            "duration_ms": 20_000 + 100 * int(video[index]),
            "like": int(like[index]),
            "watch_ms": 15_000,
        }
        answer = {
            "answer": codes[int(good[index])] if given[index] else None,
            "answered_at_ms": int(time_ms[index]) + HOUR_MS // 2 if given[index] else None,
        }
        rows.append(
            {
                "request_id": index,
                "user_id": int(user[index]),
                "timestamp_ms": int(time_ms[index]),
                "history": [],
                "candidates": [candidate],
                "answered": [candidate | answer] if given[index] else None,
            }
        )
    write_rows(out, rows)
    return out


HISTORY = pa.list_(pa.struct([("video_id", pa.int64()), ("timestamp_ms", pa.int64()), ("watch_ratio", pa.float32())]))
CANDIDATE = (
    ("video_id", pa.int64()),
    ("tags", pa.list_(pa.int64())),
    ("duration_ms", pa.int64()),
    ("like", pa.int8()),
    ("watch_ms", pa.int64()),
)
ANSWER = (("answer", pa.int8()), ("answered_at_ms", pa.int64()))


def write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    """Writes requests/ and answers/; a row's `answered` are its candidates with their answers, or None."""
    for name, fields in (("requests", CANDIDATE), ("answers", CANDIDATE + ANSWER)):
        (out / name).mkdir(parents=True)
        kept = [row for row in rows if name == "requests" or row["answered"] is not None]
        columns = {
            "request_id": pa.array([row["request_id"] for row in kept], pa.int64()),
            "user_id": pa.array([row["user_id"] for row in kept], pa.int64()),
            "timestamp_ms": pa.array([row["timestamp_ms"] for row in kept], pa.int64()),
            "history": pa.array([row["history"] for row in kept], HISTORY),
            "candidates": pa.array(
                [row["candidates" if name == "requests" else "answered"] for row in kept], pa.list_(pa.struct(fields))
            ),
        }
        pq.write_table(pa.table(columns), out / name / "part.parquet", row_group_size=500)


def by_video(user: Any, video: Any) -> Any:
    """Satisfaction that only the video decides, by a hash that neither tags nor durations have."""
    return np.where((video * 2_654_435_761 >> 7) % 2 == 0, 0.85, 0.15)


def by_person(user: Any, video: Any) -> Any:
    """Satisfaction that only the user decides."""
    return np.where((user * 2_654_435_761 >> 7) % 2 == 0, 0.85, 0.15)


def by_chance(user: Any, video: Any) -> Any:
    return np.full(len(user), 0.5)
