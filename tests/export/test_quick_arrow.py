"""The quick reader of Arrow gives what the slow one gives, or leaves the body to it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from easq_rec.export import quick_arrow
from easq_rec.export.bad_request import BadRequestError
from easq_rec.export.quick_arrow import QuickArrow
from easq_rec.export.request_arrow import columns_of_arrow
from tests.export.test_request import CONTRACT, SENT, as_arrow, columns

QUICK = QuickArrow(SENT)
FIXED = pa.list_(pa.list_(pa.float32(), 3))


def comparable(found: dict[str, np.ndarray] | None) -> Any:
    if found is None:
        return None
    return {name: (found[name].dtype, found[name].shape, found[name].tobytes()) for name in sorted(found)}


def quick(body: bytes) -> Any:
    return comparable(QUICK.columns(body))


def slow(body: bytes) -> Any:
    """Comparable columns, or the error."""
    try:
        return comparable(columns_of_arrow(body, SENT))
    except BadRequestError as error:
        return str(error)


def said(body: bytes) -> Any:
    """What a caller is told of a body whose columns cannot be read."""
    try:
        return comparable(dict(CONTRACT.of_arrow(body).columns))
    except BadRequestError as error:
        return str(error)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def table_of(values: dict[str, Any]) -> pa.Table:
    return pa.ipc.open_stream(as_arrow(values)).read_all()


def with_type(values: dict[str, np.ndarray], name: str, dtype: pa.DataType) -> bytes:
    return as_arrow({**values, name: pa.array([values[name].tolist()], dtype)})


def test_good_bodies_are_read_quickly() -> None:
    for seed in range(20):
        values = columns(seed, 1 + seed % 4)
        body = as_arrow(values)
        assert quick(body) == slow(body) == comparable(values)
        found = QUICK.columns(body)
        assert found is not None and all(column.flags.writeable for column in found.values())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("user_id", pa.list_(dtype)) for dtype in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64())),
        *(("user.age", pa.list_(dtype)) for dtype in (pa.int64(), pa.float16(), pa.float64())),
        ("user.taste", FIXED),
        ("user.taste", pa.list_(pa.list_(pa.float64()))),
        ("candidates.rate", pa.list_(pa.list_(pa.int16(), 3))),
    ],
)
def test_types_that_are_read_quickly(name: str, dtype: pa.DataType) -> None:
    values = columns()
    # Numbers that all of these types have.
    values[name] = np.arange(values[name].size).reshape(values[name].shape) % 100
    body = with_type(values, name, dtype)
    assert quick(body) == slow(body) and not isinstance(slow(body), str) and quick(body) is not None


def test_other_forms_of_good_bodies() -> None:
    """Some are read quickly, others slowly; all are read."""
    values = columns()
    table, expected = table_of(values), comparable(values)
    names = list(reversed(table.column_names))
    for body in (
        stream(table),
        stream(table.select(names)),
        stream(table, compression="zstd"),
        stream(table, use_legacy_format=True),
        stream(table.replace_schema_metadata({"a": "b"})),
        stream(table) + b"rest",
        stream(table)[:-8],
        stream(pa.concat_tables([table.slice(0, 0), table])),
        stream(pa.concat_tables([table, table]).slice(1)),
        as_arrow(values, form="file"),
        with_type(values, "user_id", pa.large_list(pa.int64())),
    ):
        assert slow(body) == expected and quick(body) in (None, expected) and said(body) == expected
    assert quick(stream(table, compression="zstd")) == quick(stream(table)[:-8]) == expected


def test_requests_without_history() -> None:
    values = columns()
    for name in values:
        if name.startswith("history."):
            values[name] = values[name][:0]
    values["lengths:history"] = np.zeros(3, np.int64)
    assert quick(as_arrow(values)) == slow(as_arrow(values)) == comparable(values)


BAD: list[tuple[str, pa.Array]] = [
    ("user_id", pa.array([["a", "b", "c"]])),
    ("user_id", pa.array([[1, None, 3]])),
    ("user_id", pa.array([None], pa.list_(pa.int64()))),
    ("user_id", pa.array([[1.0, 2.0, 3.0]])),
    ("user_id", pa.array([[True, False, True]])),
    ("user_id", pa.array([[2**63, 0, 1]], pa.list_(pa.uint64()))),
    ("user_id", pa.array([[[1], [2], [3]]])),
    ("user_id", pa.array([1])),
    ("user_id", pa.array([["a", "b", "a"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string())))),
    ("user.taste", pa.array([[1.0, 2.0, 3.0]])),
    ("user.taste", pa.array([[[1.0], [2.0], [3.0]]])),
    ("user.taste", pa.array([[[1.0]] * 3], pa.list_(pa.list_(pa.float32(), 1)))),
    ("user.taste", pa.array([[[1.0, 2.0, 3.0], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0]]])),
    ("user.taste", pa.array([[[1.0, 2.0, 3.0], None, [3.0, 2.0, 1.0]]])),
    ("user.taste", pa.array([[[1.0, 2.0, 3.0], None, [3.0, 2.0, 1.0]]], FIXED)),
    ("user.taste", pa.array([[[1.0, 2.0, None], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]], FIXED)),
    ("user.taste", pa.array([[["a"] * 3] * 3])),
]


@pytest.mark.parametrize(("name", "array"), BAD)
def test_what_is_wrong_is_named_as_by_the_slow_reader(name: str, array: pa.Array) -> None:
    body = as_arrow({**columns(), name: array})
    assert quick(body) is None
    assert isinstance(slow(body), str) and said(body) == slow(body)


def test_what_is_wrong_with_the_whole_body_is_named_as_by_the_slow_reader() -> None:
    values = columns()
    table = table_of(values)
    named = table.column_names
    for body in (
        b"",
        b"\xff\xff\xff\xff",
        stream(table)[:100],
        stream(table)[:-200],
        stream(table.slice(0, 0)),
        stream(pa.concat_tables([table, table])),
        stream(pa.concat_tables([table, table]).combine_chunks()),
        stream(table.select(named[1:])),
        stream(table.rename_columns(["speed", *named[1:]])),
        stream(table.rename_columns([named[1], *named[1:]])),
        stream(table)[: quick_arrow._end_of_header(stream(table), 0)],
    ):
        assert quick(body) is None and isinstance(slow(body), str) and said(body) == slow(body)


def test_damaged_bodies_are_read_as_by_the_slow_reader() -> None:
    rng = random.Random(2)
    read = 0
    good = [as_arrow(columns(seed)) for seed in range(5)]
    for number in range(2_000):
        body = bytearray(good[number % 5])
        for _ in range(rng.choice((1, 2))):
            # Of the header of the batch, where the lengths of all columns are, or of anything.
            begin = quick_arrow._end_of_header(bytes(body), 0) if number % 2 else 0
            at = rng.randrange(begin, len(body))
            if rng.random() < 0.8:
                body[at] = rng.randrange(256)
            else:
                body[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        found = quick(bytes(body))
        read += found is not None
        assert found in (None, slow(bytes(body))), number
    assert read > 100


def test_plans_are_made_once_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plan = quick_arrow._plan
    monkeypatch.setattr(quick_arrow, "_plan", lambda *words: made.append(None) or plan(*words))
    reader = QuickArrow(SENT)
    for seed in range(3):
        assert reader.columns(as_arrow(columns(seed))) is not None
    assert len(made) == 1
    table = table_of(columns())
    for number in range(2 * quick_arrow.MOST_PLANS):
        assert reader.columns(stream(table.replace_schema_metadata({"number": str(number)}))) is not None
        assert len(reader._plans) <= quick_arrow.MOST_PLANS
    large = stream(table.replace_schema_metadata({"number": "0" * quick_arrow.LONGEST_SCHEMA}))
    assert reader.columns(large) is None and slow(large) == comparable(columns())
