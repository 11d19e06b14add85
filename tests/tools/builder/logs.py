"""Small raw logs as Python rows, with the errors that occur in real logs, and builds of these logs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from easq_rec.tools.builder import splits
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.parse import parse
from easq_rec.tools.builder.publish import run

Row = dict[str, Any]
Log = dict[str, list[Row]]
"""Rows by table name."""

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000

IDS, TIMES = pa.int64(), pa.int64()
SCHEMAS = {
    "impressions": pa.schema(
        {
            **{"uid": IDS, "vid": IDS, "at": TIMES, "watched": pa.float64(), "rid": IDS},
            **{"asked": pa.int8(), "liked": pa.bool_(), "rate": pa.float32(), "slot": pa.int32()},
        }
    ),
    "answers": pa.schema({"uid": IDS, "vid": IDS, "at": TIMES, "said": pa.string(), "rid": IDS}),
    "users": pa.schema({"uid": IDS, "since": TIMES, "region": pa.int32(), "likes": pa.list_(pa.int64())}),
    "videos": pa.schema(
        {
            **{"vid": IDS, "since": TIMES, "maker": pa.int64(), "length": pa.int64()},
            **{"tags": pa.list_(pa.int32()), "score": pa.float64()},
        }
    ),
}
OPTIONS = {"bad": 0, "so so": 1, "good": 2}


def config(**changes: Any) -> dict[str, Any]:
    """The parsed TOML of a build of these tables. `changes` are merged into it as in `merge`."""
    values: dict[str, Any] = {
        "impressions": {
            "path": "impressions.parquet",
            "columns": {
                "user_id": "uid",
                "video_id": "vid",
                "timestamp": "at",
                "watch": "watched",
                "request_id": "rid",
            },
            "outcomes": {"like": "liked", "rate": {"column": "rate", "type": "float"}},
            "features": {"slot": "slot"},
        },
        "answers": {
            "path": "answers.parquet",
            "columns": {"user_id": "uid", "video_id": "vid", "timestamp": "at", "answer": "said", "request_id": "rid"},
        },
        "users": {
            "path": "users.parquet",
            "columns": {"user_id": "uid", "valid_from": "since"},
            "features": {"region": "region", "likes": {"column": "likes", "type": "ids"}},
        },
        "videos": {
            "path": "videos.parquet",
            "columns": {"video_id": "vid", "valid_from": "since", "duration": "length"},
            "features": {
                "author_id": "maker",
                "tags": {"column": "tags", "type": "ids"},
                "quality": {"column": "score", "type": "float"},
            },
            "history": ["author_id"],
        },
        "questionnaire": {"options": OPTIONS},
        "requests": {"max_history": 4},
        # Many of the logs have bad rows on purpose.
        "max_bad_share": 1.0,
        "output": {"row_group": 3, "file_row_groups": 2},
        "engine": {"memory_mb": 256, "threads": 1, "bucket_impressions": 40},
    }
    merge(values, changes)
    return values


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Merges `changes` into `values` in place, table by table. None removes a key. `options` is replaced as a whole."""
    for key, value in changes.items():
        if value is None:
            values.pop(key, None)
        elif isinstance(value, dict) and isinstance(values.get(key), dict) and key != "options":
            merge(values[key], value)
        else:
            values[key] = value


def sessions(**changes: Any) -> dict[str, Any]:
    """The parsed TOML of a build of a log without request ids, in which impressions are grouped into sessions."""
    values = config(
        impressions={"columns": {"request_id": None}},
        answers={"columns": {"request_id": None}},
        requests={"session_gap_s": 60.0, "max_candidates": 3},
    )
    merge(values, changes)
    return values


def random_log(seed: int, *, impressions: int = 120, bad: bool = True) -> Log:
    """A random log.

    Impressions have equal times and keys, versions of users and videos are from before and after an impression, and
    some answers match no impression. If `bad` is set, some values are invalid.
    """
    rng = random.Random(seed)
    log: Log = {"impressions": [], "answers": [], "users": [], "videos": []}
    times = sorted(START_MS + rng.randrange(3 * HOUR_MS // 500) * 500 for _ in range(impressions))
    for number, at in enumerate(times):
        user = rng.randrange(6)
        log["impressions"].append(
            {
                "uid": user,
                "vid": rng.randrange(14),
                "at": at,
                "watched": float(rng.choice([0, 500, 3_000, 7_000, 7_001, 30_000])),
                # Request ids of a user mostly increase with time.
                "rid": 1_000 * user + (number + rng.randrange(12)) // 12,
                "asked": rng.choice([0, 1]),
                "liked": rng.random() < 0.3,
                "rate": round(rng.random(), 3),
                "slot": number,
            }
        )
    for name, key, count in (("users", "uid", 7), ("videos", "vid", 13)):
        for _ in range(3 * count):
            ident = rng.randrange(count)
            row = {key: ident, "since": START_MS + rng.randrange(-2, 4) * HOUR_MS}
            if name == "users":
                row |= {"region": rng.randrange(9), "likes": [rng.randrange(9) for _ in range(rng.randrange(3))]}
            else:
                row |= {"maker": rng.randrange(99), "length": rng.randrange(1, 30) * 1_000, "score": rng.random()}
                row |= {"tags": [rng.randrange(9) for _ in range(rng.randrange(3))]}
            log[name].append(row)
    for _ in range(impressions // 2):
        about = rng.choice(log["impressions"])
        delay = rng.choice([-1, 0, 1_000, HOUR_MS, 2 * HOUR_MS, 72 * HOUR_MS, 73 * HOUR_MS])
        answer = {name: about[name] for name in ("uid", "vid", "rid")}
        answer |= {"at": about["at"] + delay, "said": rng.choice(list(OPTIONS))}
        if rng.random() < 0.1:
            answer["rid" if rng.random() < 0.5 else "vid"] = 777
        log["answers"].append(answer)
    if bad:
        for table, column, value in (
            ("impressions", "uid", None),
            ("impressions", "watched", -1.0),
            ("impressions", "watched", float("nan")),
            ("impressions", "slot", None),
            ("answers", "said", "dunno"),
            ("answers", "vid", None),
            ("users", "region", None),
            ("videos", "length", 0),
            ("videos", "vid", None),
        ):
            rng.choice(log[table])[column] = value
    rng.shuffle(log["impressions"])
    return log


def write_log(folder: Path, log: Log) -> None:
    """Writes the tables as Parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in log.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), folder / f"{name}.parquet", row_group_size=50)


def write_csv(folder: Path, name: str, rows: list[Row]) -> None:
    """Writes one table as a CSV file. The items of a list are separated by |."""
    columns = {}
    for field in SCHEMAS[name]:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            columns[field.name] = pa.array([None if v is None else "|".join(map(str, v)) for v in values], pa.string())
        else:
            columns[field.name] = pa.array(values, field.type)
    pc.write_csv(pa.table(columns), folder / f"{name}.csv")


def build_of(values: dict[str, Any]) -> Build:
    return parse(values, "test")


def run_build(folder: Path, values: dict[str, Any], *, divided: bool = False, out: str = "out") -> Path:
    """Builds the log in a folder.

    Args:
        divided: with a split for nearly every row group, and a bucket for a few impressions.
    """
    engine = values.get("engine", {}) | ({"bucket_impressions": 20} if divided else {})
    build = build_of(values | {"engine": engine})
    with mock.patch.object(splits, "SPLIT_ROWS", 60 if divided else splits.SPLIT_ROWS):
        run(build, base=folder, out=folder / out, progress=lambda line: None)
    return folder / out


def read_rows(folder: Path) -> list[Row]:
    """All rows of a dataset in the order of its files."""
    files = sorted(folder.rglob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def quarantined(out: Path) -> list[tuple[str, str]]:
    """The sorted (table, reason) of all quarantined rows. Each row must be valid JSON."""
    rows = read_rows(out / "quarantine")
    for row in rows:
        json.loads(row["row"])
    return sorted((row["table"], row["reason"]) for row in rows)
