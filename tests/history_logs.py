"""Requests of users whose watches overlap, made request by request in plain Python."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.data.writer import open_writer, required

ENTRY = pa.struct(
    [
        pa.field("video_id", pa.int64()),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("watch_ratio", pa.float32()),
        pa.field("tags", pa.list_(pa.int64())),
    ]
)
CANDIDATE = pa.struct([pa.field("video_id", pa.int64()), pa.field("like", pa.int8())])
SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.int64()),
        pa.field("user_id", pa.int64()),
        pa.field("timestamp_ms", pa.int64()),
        pa.field("user", pa.struct([pa.field("region", pa.int64())])),
        pa.field("history", pa.list_(ENTRY)),
        pa.field("candidates", pa.list_(CANDIDATE)),
    ]
)


def requests(count: int, *, users: int = 7, longest: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Requests in the order of time. A history has the last `longest` watches, in the order in which they ended, of
    those that ended before the request; its entries are in the order in which they began."""
    rng = random.Random(seed)
    # (end, entry) of all watches of a user.
    watched: dict[int, list[tuple[int, dict[str, Any]]]] = {user: [] for user in range(users)}
    rows = []
    now = 1_700_000_000_000
    for number in range(count):
        now += rng.randrange(40_000)
        user = rng.randrange(users)
        ended = sorted(watch for watch in enumerate(watched[user]) if watch[1][0] <= now)
        last = [entry for _, (_, entry) in sorted(ended, key=lambda watch: (watch[1][0], watch[0]))][-longest:]
        # Ids beyond 32 bits and negative ones.
        rows.append(
            {
                "request_id": number,
                "user_id": user * 2**40 - 5,
                "timestamp_ms": now,
                "user": {"region": user % 3},
                "history": sorted(last, key=lambda entry: entry["timestamp_ms"]),
                "candidates": [{"video_id": rng.randrange(50), "like": 0} for _ in range(rng.randrange(1, 4))],
            }
        )
        for slot in range(rng.randrange(6)):
            began = now + 4_000 * slot
            entry = {
                "video_id": rng.randrange(50) - 3,
                "timestamp_ms": began,
                "watch_ratio": rng.random(),
                "tags": [rng.randrange(9) for _ in range(rng.randrange(3))],
            }
            watched[user].append((began + rng.randrange(1, 120_000), entry))
    return rows


def write(folder: Path, rows: list[dict[str, Any]], *, files: int = 3, row_group: int = 16) -> Path:
    """Writes rows to some files, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = required(SCHEMA, ())
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size], SCHEMA)
        with open_writer(folder / f"part-{number:02d}.parquet", schema) as writer:
            writer.write_table(table.cast(schema), row_group_size=row_group)
    return folder


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder, in the order of the files' names."""
    return [row for file in sorted(folder.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
