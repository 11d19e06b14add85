"""Small random logs with ties, gaps and times at the edges of buckets, and their counts by the slow reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, FeatureSchema
from easq_rec.data.columns import Array, Ragged, offsets_of
from easq_rec.tools.counts.command import add_counts
from tests.data.builders import SCHEMA, Row, arrow_schema, candidate_fields, make_rows, write_dataset
from tests.tools.counts.reference import MINUTE_MS, Impression, counted

BUCKET = 20
WIDTH = BUCKET * MINUTE_MS
START_MS = 1_650_000_000_000 // WIDTH * WIDTH
HUGE = (2**63 - 1, -(2**63), 2**32)
COUNTS = (
    Count(name="all_likes", outcome="like"),
    Count(name="video", outcome="long_view", keys=("video_id",)),
    Count(name="video_fast", outcome="like", keys=("video_id",), half_life_h=0.5),
    Count(name="author_day", outcome="long_view", keys=("author_id",), half_life_h=24.0),
    Count(name="tag", outcome="like", keys=("tags",), half_life_h=2.0),
    Count(name="user", outcome="like", keys=("user_id",)),
    Count(name="user_region", outcome="long_view", keys=("user_id", "user.region"), half_life_h=1.0),
    Count(name="region_tags_user", outcome="like", keys=("user.region", "tags", "user_id")),
    Count(name="interest", outcome="like", keys=("user.interests",)),
)
COUNTED = dataclasses.replace(with_counts(SCHEMA, COUNTS), count_bucket_minutes=BUCKET)
"""The schema of `tests.data.builders` with counts."""


def make_log(rng: np.random.Generator, number: int, *, known: bool = True) -> list[Row]:
    """Requests in the order of time.

    Args:
        known: whether candidates have `known_ms`.
    """
    rows = make_rows(rng, number)
    now = START_MS + 1
    for row in rows:
        row["timestamp_ms"] = now
        row["user_id"] = _id(rng, 4)
        row["user"] = {**row["user"], "interests": rng.integers(3, size=rng.integers(3)).tolist()}
        if rng.random() < 0.1:
            row["candidates"] = []
        for candidate in row["candidates"]:
            candidate |= {"video_id": _id(rng, 7), "author_id": int(rng.integers(3))}
            candidate["tags"] = [_id(rng, 4) for _ in range(rng.integers(4))]
            candidate["watch_ms"] = int(rng.integers(WIDTH // 3))
            if known:
                candidate["known_ms"] = _later(rng, now, 2)
        now = _later(rng, now, int(rng.choice([0, 1, 1, 3, 60])))
    return rows


def _id(rng: np.random.Generator, most: int) -> int:
    return int(rng.choice(HUGE)) if rng.random() < 0.2 else int(rng.integers(most))


def _later(rng: np.random.Generator, now: int, buckets: int) -> int:
    """At most so many buckets later, often at the edge of a bucket or just before it."""
    later = now + int(rng.integers(max(buckets * WIDTH, 1)))
    edge = later // WIDTH * WIDTH + int(rng.integers(-1, 2))
    return edge if rng.random() < 0.4 and edge >= now else later


def log_schema(*, known: bool = True, answers: bool = False) -> pa.Schema:
    """Columns of the files."""
    base = arrow_schema()
    fields = candidate_fields(answers=answers)
    fields += [pa.field("known_ms", pa.int64())] if known else []
    return base.set(base.get_field_index("candidates"), pa.field("candidates", pa.list_(pa.struct(fields))))


def write_log(
    directory: Path, rows: list[Row], *, file_sizes: list[int] | None = None, row_group_sizes: list[int] | None = None
) -> Path:
    """A data directory with these requests and without answers."""
    known = any("known_ms" in candidate for row in rows for candidate in row["candidates"])
    write_dataset(
        directory / "requests",
        rows,
        file_sizes=file_sizes,
        row_group_sizes=row_group_sizes,
        schema=log_schema(known=known),
    )
    return directory


def with_counts_of(directory: Path, out: Path, schema: FeatureSchema = COUNTED) -> list[Row]:
    """Runs the pass; returns the requests that it wrote."""
    add_counts(directory, out, schema)
    return read_rows(out / "requests")


def read_rows(dataset: Path) -> list[Row]:
    return [row for file in sorted(dataset.rglob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]


def impressions(rows: list[Row]) -> list[Impression]:
    """All impressions with the times at which their outcomes were known."""
    found = []
    for row in rows:
        watched = sum(candidate["watch_ms"] for candidate in row["candidates"])
        for candidate in row["candidates"]:
            outcomes = {name: float(candidate[name]) for name in ("long_view", "like")}
            known_ms = candidate.get("known_ms", row["timestamp_ms"] + watched)
            found.append(Impression(ids=ids_of(row, candidate), known_ms=known_ms, outcomes=outcomes))
    return found


def ids_of(row: Row, candidate: Row) -> dict[str, Any]:
    user = {f"user.{name}": row["user"][name] for name in ("region", "interests")}
    return {"user_id": row["user_id"], **user, **{name: candidate[name] for name in ("video_id", "author_id", "tags")}}


def serving_ids(row: Row) -> dict[str, Array | Ragged]:
    """By key, the ids of the candidates of one request."""
    ids = [ids_of(row, candidate) for candidate in row["candidates"]]
    columns: dict[str, Array | Ragged] = {}
    for key in ids[0]:
        values = [one[key] for one in ids]
        if isinstance(values[0], list):
            flat = np.array([value for entry in values for value in entry], np.int64)
            columns[key] = Ragged(
                offsets=offsets_of(np.array([len(entry) for entry in values])), children={"values": flat}
            )
        else:
            columns[key] = np.array(values, np.int64)
    return columns


def check(found: list[Row], rows: list[Row], log: list[Row] | None = None, counts: tuple[Count, ...] = COUNTS) -> None:
    """Holds the counts in `found` equal to the reference for the same requests `rows`.

    Args:
        log: the requests whose impressions are counted; None: `rows`.
    """
    earlier = impressions(rows if log is None else log)
    assert [row["request_id"] for row in found] == [row["request_id"] for row in rows]
    for row, plain in zip(found, rows, strict=True):
        for candidate in row["candidates"]:
            for count in counts:
                wanted = counted(earlier, count, ids_of(plain, candidate), row["timestamp_ms"], BUCKET)
                values = [candidate[count.name][name] for name in ("shown", "happened", "prior")]
                np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-12, err_msg=count.name)
