"""The KuaiRand workload: requests with the shape of a real log, and random ids.

The log itself is not part of the repository. The numbers below were counted in KuaiRand-Pure, requests of users with
even ids from 25 April to 8 May, as `datasets/kuairand/prepare.py` writes them: 62,061 requests, 110,750 impressions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from easq_rec.config import Config
from easq_rec.config.recipes import kuairand
from easq_rec.data.columns import Array, Ragged, RequestColumns

HISTORIES = (
    21583, 11357, 7989, 5645, 4003, 2790, 2054, 1487, 1207, 857, 658, 492, 414, 328, 234, 171, 144, 121, 101, 59, 58,
    54, 30, 36, 28, 27, 21, 17, 11, 18, 8, 5, 13, 4, 2, 3, 1, 2, 4, 2, 2, 1, 1, 1, 0, 2, 1, 1, 0, 0, 14,
)  # fmt: skip
"""Requests with 0, 1, ... 50 history entries; 2.5 on average."""
CANDIDATES = (0, 37779, 13026, 5549, 2596, 1339, 769, 382, 228, 134, 86, 61, 112)
"""Requests with 0, 1, ... 12 candidates; 1.8 on average."""
TAGS = (1005, 95987, 13471, 287)
"""Candidates with 0, 1, 2, 3 tags."""
LONG_VIEW, VALID_PLAY = 0.32, 0.45
"""Share of impressions with each outcome."""
USERS, VIDEOS, AUTHORS = 12_576, 5_743, 5_160
"""Different ids in the log. Uniform draws of them repeat less often than the log does."""


def kuairand_config() -> Config:
    """The recipe `kuairand`, with the tables as `recipes.py` sets them, on one thread."""
    config = kuairand()
    trainer = dataclasses.replace(config.trainer, threads=1, device="cpu")
    return dataclasses.replace(config, trainer=trainer)


def kuairand_requests(count: int, rng: np.random.Generator) -> RequestColumns:
    """`count` requests with the counted lengths."""

    def lengths(counted: tuple[int, ...], size: int) -> Array:
        return rng.choice(len(counted), size, p=np.array(counted) / sum(counted))

    def offsets(sizes: Array) -> Array:
        return np.concatenate([[0], sizes.cumsum()]).astype(np.int64)

    histories, lists = lengths(HISTORIES, count), lengths(CANDIDATES, count)
    entries, candidates = int(histories.sum()), int(lists.sum())
    tags = lengths(TAGS, candidates)
    times = rng.integers(10**9, 10**10, count)
    schema = kuairand_config().schema
    valid_play = rng.random(candidates) < VALID_PLAY
    return RequestColumns(
        scalars={
            "request_id": np.arange(count),
            "user_id": rng.integers(0, USERS, count),
            "timestamp_ms": times,
            **{
                f"user.{feature.name}": rng.integers(0, schema.table(str(feature.table)).rows, count)
                for feature in schema.user[1:]
            },
        },
        lists={},
        history=Ragged(
            offsets=offsets(histories),
            children={
                "video_id": rng.integers(0, VIDEOS, entries),
                "author_id": rng.integers(0, AUTHORS, entries),
                "timestamp_ms": np.repeat(times, histories) - rng.integers(0, 10**8, entries),
                "watch_ratio": rng.random(entries, dtype=np.float32),
            },
        ),
        candidates=Ragged(
            offsets=offsets(lists),
            children={
                "video_id": rng.integers(0, VIDEOS, candidates),
                "author_id": rng.integers(0, AUTHORS, candidates),
                "tags": Ragged(offsets=offsets(tags), children={"values": rng.integers(0, 128, int(tags.sum()))}),
                "video_type": rng.integers(1, 3, candidates),
                "age": rng.integers(0, 16, candidates),
                "duration_ms": rng.integers(3_000, 450_000, candidates).astype(np.float32),
                # A long view of a video is a valid play of it.
                "long_view": (valid_play & (rng.random(candidates) < LONG_VIEW / VALID_PLAY)).astype(np.float32),
                "valid_play": valid_play.astype(np.float32),
            },
        ),
    )
