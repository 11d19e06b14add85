"""Small request logs as plain Python rows, written to real Parquet files, for the tests of the data layer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.data.columns import Ragged, RequestColumns
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout

Row = dict[str, Any]
"""One request, in the form of pyarrow's to_pylist."""

SCHEMA = FeatureSchema(
    tables=(
        Table(name="user", rows=97, dim=4),
        Table(name="region", rows=5, dim=4, id_space="dense"),
        Table(name="interest", rows=7, dim=4),
        Table(name="video", rows=50, dim=8),
        Table(name="author", rows=13, dim=8),
        Table(name="tag", rows=11, dim=4),
        Table(name="genre", rows=6, dim=4, id_space="dense"),
        Table(name="category", rows=4, dim=8, id_space="dense"),
    ),
    user=(
        Feature(name="user_id", table="user"),
        Feature(name="region", table="region"),
        Feature(name="interests", kind="id_list", table="interest"),
    ),
    history=(Feature(name="video_id", table="video"), Feature(name="author_id", table="author")),
    candidate=(
        Feature(name="video_id", table="video"),
        Feature(name="author_id", table="author"),
        Feature(name="tags", kind="id_list", table="tag", pooling="mean"),
        Feature(name="genres", kind="id_list", table="genre"),
        Feature(name="category", source="category_code", table="category"),
        Feature(name="duration", kind="float", source="duration_ms", transform="log1p"),
        Feature(name="quality", kind="float"),
    ),
    outcomes=(Outcome(name="long_view", weight=1.0), Outcome(name="like", weight=0.5)),
    satisfaction_dim=8,
)

HUGE = 2**62
IDS = np.array([0, 1, -1, -13, 49, 50, 51, HUGE, -HUGE, 2**63 - 1, -(2**63), 12_345_678_901])
"""Ids of hashed tables, including the limits of int64."""

HISTORY = pa.struct(
    [("video_id", pa.int64()), ("author_id", pa.int32()), ("timestamp_ms", pa.int64()), ("watch_ratio", pa.float64())]
)
CANDIDATE: list[tuple[str, pa.DataType]] = [
    ("video_id", pa.int64()),
    ("author_id", pa.int32()),
    ("note", pa.string()),
    ("tags", pa.list_(pa.int64())),
    ("genres", pa.large_list(pa.uint8())),
    ("category_code", pa.int16()),
    ("duration_ms", pa.int32()),
    ("quality", pa.float64()),
    ("watch_ms", pa.int32()),
    ("long_view", pa.int8()),
    ("like", pa.bool_()),
    ("true_satisfaction", pa.float32()),
]
ANSWER: list[tuple[str, pa.DataType]] = [("answer", pa.int8()), ("answered_at_ms", pa.int64())]


def arrow_schema(*, answers: bool = False) -> pa.Schema:
    """Columns of the files: those of `SCHEMA` in types other than the decoded ones, and some unread columns."""
    return pa.schema(
        [
            ("request_id", pa.int64()),
            ("page", pa.string()),
            ("timestamp_ms", pa.int64()),
            ("user_id", pa.int64()),
            ("user", pa.struct([("age", pa.int8()), ("region", pa.int8()), ("interests", pa.list_(pa.int32()))])),
            ("history", pa.list_(HISTORY)),
            ("candidates", pa.list_(pa.struct(CANDIDATE + (ANSWER if answers else [])))),
        ]
    )


def make_rows(rng: np.random.Generator, number: int, *, first_id: int = 0, start_ms: int = 1_000_000) -> list[Row]:
    """Requests in time order, at most a second apart, with `request_id` counted from `first_id`."""
    times = start_ms + np.cumsum(rng.integers(0, 1_000, number))
    return [_row(rng, first_id + index, int(times[index])) for index in range(number)]


def _row(rng: np.random.Generator, request_id: int, time: int) -> Row:
    return {
        "request_id": request_id,
        "page": "home",
        "timestamp_ms": time,
        "user_id": _hashed(rng),
        "user": {
            "age": int(rng.integers(100)),
            "region": int(rng.integers(5)),
            "interests": rng.integers(-100, 100, rng.integers(4)).tolist(),
        },
        "history": [
            {
                "video_id": _hashed(rng),
                "author_id": int(rng.integers(-1_000, 1_000)),
                "timestamp_ms": time - 1_003 * (5 - index),
                "watch_ratio": float(rng.random()),
            }
            for index in range(rng.integers(6))
        ],
        "candidates": [
            {
                "video_id": _hashed(rng),
                "author_id": int(rng.integers(-1_000, 1_000)),
                "note": None,
                "tags": [_hashed(rng) for _ in range(rng.integers(4))],
                "genres": rng.integers(0, 6, rng.integers(3)).tolist(),
                "category_code": int(rng.integers(4)),
                "duration_ms": int(rng.integers(100_000)) if rng.random() < 0.9 else -5,
                "quality": float(rng.normal()),
                "watch_ms": int(rng.integers(1_000)),
                "long_view": int(rng.integers(2)),
                "like": bool(rng.integers(2)),
                "true_satisfaction": None if rng.random() < 0.2 else float(rng.integers(5)),
            }
            for _ in range(rng.integers(1, 5))
        ],
    }


def _hashed(rng: np.random.Generator) -> int:
    return int(rng.choice(IDS)) if rng.random() < 0.3 else int(rng.integers(-1_000, 1_000))


def answer_row(rng: np.random.Generator, row: Row, answers: dict[int, tuple[int, int]]) -> Row:
    """The request as in `answers/`; `answers` maps a candidate number to (answer code, answered_at_ms)."""
    candidates = []
    for index, candidate in enumerate(row["candidates"]):
        answer, time = answers.get(index, (None, None))
        candidates.append({**candidate, "answer": answer, "answered_at_ms": time})
    return {**row, "candidates": candidates}


def make_answers(rng: np.random.Generator, rows: list[Row], *, delay_ms: int = 5_000) -> list[Row]:
    """The requests with one or more answers each, at some time up to `delay_ms` after the request."""
    answered = []
    for row in rows:
        many = int(rng.integers(1, len(row["candidates"]) + 1))
        chosen = rng.permutation(len(row["candidates"]))[:many]
        replies = {
            int(index): (int(rng.integers(3)), row["timestamp_ms"] + int(rng.integers(delay_ms))) for index in chosen
        }
        answered.append(answer_row(rng, row, replies))
    return answered


def to_table(rows: list[Row], schema: pa.Schema | None = None) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema or arrow_schema())


def write_file(
    file: Path, table: pa.Table, *, row_group_sizes: list[int] | None = None, statistics: bool = True
) -> Path:
    """Writes one Parquet file. Row-group sizes are used in turn until no row is left; None: one row group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, table.schema, write_statistics=statistics) as writer:
        for group in _pieces(table, row_group_sizes):
            writer.write_table(group)
    return file


def write_dataset(
    directory: Path,
    rows: list[Row],
    *,
    file_sizes: list[int] | None = None,
    row_group_sizes: list[int] | None = None,
    schema: pa.Schema | None = None,
    statistics: bool = True,
) -> Path:
    """Writes the rows, in order, to files whose names sort in that order, ten files per folder."""
    number = count()
    for part in _pieces(to_table(rows, schema), file_sizes):
        index = next(number)
        file = directory / f"part={index // 10:02}" / f"{index:04}.parquet"
        write_file(file, part, row_group_sizes=row_group_sizes, statistics=statistics)
    return directory


def _pieces(table: pa.Table, sizes: list[int] | None) -> Iterator[pa.Table]:
    """The table in pieces of these sizes, in turn; a size of 0 gives an empty piece."""
    start, turn = 0, 0
    while sizes and start < len(table):
        size = sizes[turn % len(sizes)]
        yield table.slice(start, size)
        start, turn = start + size, turn + 1
    if not turn:
        yield table


def open_dataset(directory: Path, *, period: Period | None = None, max_history: int = 50) -> RequestDataset:
    return RequestDataset(directory, Layout.of(SCHEMA), period=period, max_history=max_history)


def read_answers(directory: Path) -> EncodedRequests | None:
    layout = Layout.of(SCHEMA, answers=True)
    found = RequestDataset(directory, layout).read_all()
    return encode(layout, found) if found is not None else None


def ids(columns: RequestColumns) -> list[int]:
    return columns.scalars["request_id"].tolist()


def nested(ragged: Ragged) -> list[dict[str, list[Any]]]:
    """For each list of the column, the entries of every child as plain Python lists."""
    plain: dict[str, list[Any]] = {}
    for name, child in ragged.children.items():
        if isinstance(child, Ragged):
            plain[name] = [entry["values"] for entry in nested(child)]
        else:
            plain[name] = child.tolist()
    bounds = ragged.offsets.tolist()
    return [{name: values[start:end] for name, values in plain.items()} for start, end in pairwise(bounds)]


def plain(columns: RequestColumns) -> list[dict[str, Any]]:
    """Plain Python dicts, one per request."""
    histories, candidates = nested(columns.history), nested(columns.candidates)
    lists = {name: [entry["values"] for entry in nested(ragged)] for name, ragged in columns.lists.items()}
    return [
        {
            **{name: values[row].item() for name, values in columns.scalars.items()},
            **{name: values[row] for name, values in lists.items()},
            "history": histories[row],
            "candidates": candidates[row],
        }
        for row in range(len(columns))
    ]


def candidate_fields(*, answers: bool = False, **types: pa.DataType) -> list[pa.Field]:
    """The fields of a candidate; `types` replaces the types of some."""
    fields = list(arrow_schema(answers=answers).field("candidates").type.value_type)
    return [pa.field(field.name, types.get(field.name, field.type)) for field in fields]


_SCALARS = ("request_id", "user_id", "timestamp_ms")
_HISTORY = ("video_id", "author_id", "timestamp_ms", "watch_ratio")
READ = ("video_id", "author_id", "tags", "genres", "category_code", "duration_ms", "quality", "long_view", "like")
"""Candidate columns that `SCHEMA` reads."""
_FLOATS = {"watch_ratio", "duration_ms", "quality", "long_view", "like", "true_satisfaction"}


def expected(rows: list[Row], *, max_history: int = 50, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The expected result of `plain` for these rows of `to_pylist`."""
    return [
        {
            **{name: row[name] for name in _SCALARS},
            **{f"user.{name}": row["user"][name] for name in ("region", "interests")},
            "history": _children(row["history"][max(len(row["history"]) - max_history, 0) :], _HISTORY),
            "candidates": _children(row["candidates"], READ + more),
        }
        for row in rows
    ]


def _children(entries: list[Row], names: tuple[str, ...]) -> dict[str, list[Any]]:
    return {name: [_value(name, entry[name]) for entry in entries] for name in names}


def _value(name: str, value: Any) -> Any:
    if name in _FLOATS:
        return "unknown" if value is None else float(np.float32(value))
    return NO_ANSWER if value is None else value
