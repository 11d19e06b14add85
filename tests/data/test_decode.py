"""Parquet to columns: the values are those that pyarrow's to_pylist gives, and bad input is named to its place."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.data.columns import RequestColumns
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.decode import NO_ANSWER, Place, decode
from easq_rec.data.schema import Layout
from easq_rec.features import Feature, FeatureSchema, Outcome, Table
from tests.data.builders import (
    SCHEMA,
    Row,
    arrow_schema,
    make_answers,
    make_rows,
    nested,
    open_dataset,
    plain,
    to_table,
    write_dataset,
    write_file,
)

PLAIN, ANSWERS, TRUTH = (
    Layout.of(SCHEMA),
    Layout.of(SCHEMA, answers=True),
    Layout.of(SCHEMA, truth="true_satisfaction"),
)
SCALARS = ("request_id", "user_id", "timestamp_ms")
HISTORY = ("video_id", "author_id", "timestamp_ms", "watch_ratio")
CANDIDATE = ("video_id", "author_id", "tags", "genres", "category_code", "duration_ms", "quality", "long_view", "like")
FLOATS = {"watch_ratio", "duration_ms", "quality", "long_view", "like", "true_satisfaction"}


def expected(rows: list[Row], *, max_history: int = 50, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What `plain` should give for these rows of `to_pylist`."""
    return [
        {
            **{name: row[name] for name in SCALARS},
            **{f"user.{name}": row["user"][name] for name in ("region", "interests")},
            "history": _children(row["history"][max(len(row["history"]) - max_history, 0) :], HISTORY),
            "candidates": _children(row["candidates"], CANDIDATE + more),
        }
        for row in rows
    ]


def _children(entries: list[Row], names: tuple[str, ...]) -> dict[str, list[Any]]:
    return {name: [_value(name, entry[name]) for entry in entries] for name in names}


def _value(name: str, value: Any) -> Any:
    if name in FLOATS:
        return "unknown" if value is None else float(np.float32(value))
    return NO_ANSWER if value is None else value


def unknown_named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NaN is not equal to itself: its name is."""
    for row in rows:
        truth = row["candidates"]["true_satisfaction"]
        row["candidates"]["true_satisfaction"] = ["unknown" if value != value else value for value in truth]
    return rows


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(np.random.default_rng(0), 23)


@pytest.mark.parametrize("max_history", [0, 2, 50])
def test_values_are_those_of_to_pylist(tmp_path: Path, rows: list[Row], max_history: int) -> None:
    directory = write_dataset(tmp_path / "requests", rows, file_sizes=[10, 1, 5], row_group_sizes=[3, 4])
    stored = [row for file in sorted(directory.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [row["request_id"] for row in stored] == list(range(23))
    dataset = open_dataset(directory, max_history=max_history)
    everything = dataset.read_all()
    assert everything is not None and len(everything) == len(dataset) == 23
    assert plain(everything) == expected(stored, max_history=max_history)
    assert [len(dataset.read(group)) for group in dataset.row_groups] == [3, 4, 3, 1, 3, 2, 3, 4]


def test_answers_and_truth(tmp_path: Path, rows: list[Row]) -> None:
    answered = make_answers(np.random.default_rng(1), rows)
    directory = write_dataset(tmp_path / "answers", answered, schema=arrow_schema(answers=True), row_group_sizes=[6])
    layout = Layout.of(SCHEMA, answers=True, truth="true_satisfaction")
    everything = RequestDataset(directory, layout).read_all()
    assert everything is not None
    more = ("answer", "answered_at_ms", "true_satisfaction")
    assert unknown_named(plain(everything)) == expected(answered, more=more)
    candidates = everything.candidates
    assert candidates.column("answer").dtype == np.int8
    assert candidates.column("true_satisfaction").dtype == candidates.column("quality").dtype == np.float32
    assert candidates.column("video_id").dtype == candidates.column("author_id").dtype == np.int64


def test_what_the_layout_does_not_ask_for_is_not_decoded(tmp_path: Path, rows: list[Row]) -> None:
    answered = make_answers(np.random.default_rng(1), rows)
    directory = write_dataset(tmp_path / "answers", answered, schema=arrow_schema(answers=True))
    leaves = {
        layout: set(RequestDataset(directory, layout).read_all().candidates.children)  # type: ignore[union-attr]
        for layout in (PLAIN, ANSWERS, TRUTH, Layout.of(SCHEMA, outcomes=False))
    }
    assert leaves[PLAIN] == set(CANDIDATE)
    assert leaves[ANSWERS] == {*CANDIDATE, "answer", "answered_at_ms"}
    assert leaves[TRUTH] == {*CANDIDATE, "true_satisfaction"}
    assert leaves[Layout.of(SCHEMA, outcomes=False)] == set(CANDIDATE) - {"long_view", "like"}


def test_columns_left_out_are_not_even_read(tmp_path: Path, rows: list[Row]) -> None:
    """Overwrites the pages of the truth with garbage: who does not ask for it does not notice."""
    file = write_file(tmp_path / "requests" / "a.parquet", to_table(rows))
    metadata = pq.ParquetFile(file).metadata.row_group(0)
    columns = [metadata.column(leaf) for leaf in range(metadata.num_columns)]
    truth = next(column for column in columns if "true_satisfaction" in column.path_in_schema)
    content = bytearray(file.read_bytes())
    start = truth.dictionary_page_offset or truth.data_page_offset
    content[start : start + truth.total_compressed_size] = b"\xff" * truth.total_compressed_size
    broken = tmp_path / "broken" / "a.parquet"
    broken.parent.mkdir()
    broken.write_bytes(content)
    assert plain(RequestDataset(broken.parent, PLAIN).read_all()) == expected(rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{re.escape(str(broken))}, row group 0: cannot be read"):
        RequestDataset(broken.parent, TRUTH).read_all()


NESTED: list[tuple[str, pa.DataType, Any]] = [
    ("map", pa.map_(pa.string(), pa.int64()), [("a", 7)]),
    ("list of lists", pa.list_(pa.list_(pa.int64())), [[7]]),
    ("list of lists of structs", pa.list_(pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())]))), [[]]),
    ("map of structs", pa.map_(pa.string(), pa.struct([("a", pa.int64()), ("b", pa.int64())])), []),
    ("fixed-size list of structs", pa.list_(pa.struct([("a", pa.int8()), ("b", pa.int8())]), 1), [{"a": 7, "b": 8}]),
    ("dictionary", pa.dictionary(pa.int8(), pa.string()), "x"),
]


@pytest.mark.parametrize(("dtype", "value"), [case[1:] for case in NESTED], ids=[case[0] for case in NESTED])
def test_columns_of_any_type_may_stand_before_those_that_are_read(
    tmp_path: Path, rows: list[Row], dtype: pa.DataType, value: Any
) -> None:
    """Parquet counts leaves: an unread column with several of them must not shift the others."""
    fields = list(arrow_schema())
    user = fields[4].type
    fields[1] = pa.field("page", dtype)
    fields[4] = pa.field("user", pa.struct([pa.field("age", dtype), *list(user)[1:]]))
    changed = [{**row, "page": value, "user": {**row["user"], "age": value}} for row in rows]
    directory = write_dataset(tmp_path / "requests", changed, schema=pa.schema(fields))
    everything = open_dataset(directory).read_all()
    assert everything is not None and plain(everything) == expected(rows)


def decoded(table: pa.Table, layout: Layout = PLAIN) -> RequestColumns:
    """Decodes a table in memory, less what the layout leaves out."""
    wanted = {column.path for column in layout.columns}
    columns: dict[str, pa.ChunkedArray] = {}
    for name in ("request_id", "user_id", "timestamp_ms", "user", "history", "candidates"):
        columns[name] = pa.chunked_array([_project(chunk, name, wanted) for chunk in table.column(name).chunks])
    return decode(pa.table(columns), layout, Place(file="memory", row_group=7), max_history=50)


def _project(array: pa.Array, path: str, wanted: set[str]) -> pa.Array:
    if pa.types.is_struct(array.type):
        fields = [(array.type.field(i).name, array.field(i)) for i in range(array.type.num_fields)]
        kept = [(name, child) for name, child in fields if f"{path}.{name}" in wanted]
        return pa.StructArray.from_arrays([child for _, child in kept], names=[name for name, _ in kept])
    if pa.types.is_list(array.type) and pa.types.is_struct(array.type.value_type):
        # Keeps offset and surplus values of a slice, as Parquet readers and IPC may hand them over.
        whole = pa.ListArray.from_arrays(array.offsets, _project(array.values, path, wanted))
        assert len(whole) == len(array)
        return whole
    return array


def test_slices_and_chunks_decode_to_their_own_rows(rows: list[Row]) -> None:
    table = to_table(rows)
    assert plain(decoded(table.slice(5, 9))) == expected(rows[5:14])
    assert decoded(table.slice(5, 9)).history.offsets[0] == 0
    chunked = pa.concat_tables([table.slice(0, 4), table.slice(9, 0), table.slice(4, 2), table.slice(6, 17)])
    assert chunked.column("candidates").num_chunks == 4
    assert plain(decoded(chunked)) == expected(rows)
    assert len(decoded(table.slice(3, 0))) == 0


def test_a_file_without_rows(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path / "requests", [])
    dataset = open_dataset(directory)
    assert len(dataset) == 0 and dataset.read_all() is None


# ---------------------------------------------------------------------------------------------------------------------
# Bad values

Change = Callable[[Row], None]


def _set(path: str, value: Any) -> Change:
    """Sets a field of the row; in a list of structs, that of its last entry."""

    def change(row: Row) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            row = row[parent][-1] if isinstance(row[parent], list) else row[parent]
        row[name] = value

    return change


def _append(path: str, value: Any) -> Change:
    def change(row: Row) -> None:
        for name in path.split("."):
            row = row[-1][name] if isinstance(row, list) else row[name]
        row.append(value)

    return change


BAD: list[tuple[str, Change, str]] = [
    ("request_id", _set("request_id", None), "found null, expected an integer"),
    ("user_id", _set("user_id", None), "found null, expected an integer"),
    ("user", _set("user", None), "found null, expected a struct"),
    ("user.region", _set("user.region", None), "found null, expected an integer"),
    ("user.region", _set("user.region", 5), "found 5, expected 0..4 (dense table 'region')"),
    ("user.region", _set("user.region", -1), "found -1, expected 0..4 (dense table 'region')"),
    ("user.interests", _set("user.interests", None), "found null, expected a list"),
    ("user.interests", _append("user.interests", None), "found null, expected an integer"),
    ("history", _set("history", None), "found null, expected a list"),
    ("history", _append("history", None), "found null, expected a struct"),
    ("history.video_id", _set("history.video_id", None), "found null, expected an integer"),
    ("history.timestamp_ms", _set("history.timestamp_ms", None), "found null, expected an integer"),
    ("history.watch_ratio", _set("history.watch_ratio", None), "found null, expected a number"),
    ("history.watch_ratio", _set("history.watch_ratio", float("nan")), "found nan, expected a finite number"),
    ("candidates", _set("candidates", None), "found null, expected a list"),
    ("candidates", _append("candidates", None), "found null, expected a struct"),
    ("candidates.video_id", _set("candidates.video_id", None), "found null, expected an integer"),
    ("candidates.tags", _set("candidates.tags", None), "found null, expected a list"),
    ("candidates.tags", _append("candidates.tags", None), "found null, expected an integer"),
    ("candidates.genres", _append("candidates.genres", 6), "found 6, expected 0..5 (dense table 'genre')"),
    ("candidates.category_code", _set("candidates.category_code", 4), "found 4, expected 0..3 (dense table"),
    ("candidates.category_code", _set("candidates.category_code", -7), "found -7, expected 0..3 (dense table"),
    ("candidates.quality", _set("candidates.quality", float("nan")), "found nan, expected a finite number"),
    ("candidates.quality", _set("candidates.quality", float("inf")), "found inf, expected a finite number"),
    ("candidates.quality", _set("candidates.quality", float("-inf")), "found -inf, expected a finite number"),
    ("candidates.quality", _set("candidates.quality", -1e300), "found -1e+300, expected a finite number"),
    ("candidates.like", _set("candidates.like", None), "found null, expected a number"),
    ("candidates.answer", _set("candidates.answer", 3), "found 3, expected null, 0, 1 or 2"),
    ("candidates.answer", _set("candidates.answer", -2), "found -2, expected null, 0, 1 or 2"),
    ("candidates.answer", _set("candidates.answer", -1), "found -1, expected null, 0, 1 or 2"),
]


@pytest.mark.parametrize(("column", "change", "message"), BAD, ids=[f"{bad[0]}: {bad[2]}" for bad in BAD])
def test_a_bad_value_is_named_to_its_place(tmp_path: Path, column: str, change: Change, message: str) -> None:
    answered = make_answers(np.random.default_rng(3), make_rows(np.random.default_rng(2), 12))
    # Row 11 is row 3 of the row group 1 of the second file; it has something in every list.
    row = answered[11]
    row["user"]["interests"] = [1]
    row["history"] = [{"video_id": 1, "author_id": 2, "timestamp_ms": 3, "watch_ratio": 0.5}]
    row["candidates"].append(copy.deepcopy(row["candidates"][0]) | {"tags": [1, 2], "genres": [3]})
    schema = arrow_schema(answers=True)
    files = {"file_sizes": [6], "row_group_sizes": [2, 4]}
    good = write_dataset(tmp_path / "good", answered, schema=schema, **files)  # type: ignore[arg-type]
    assert RequestDataset(good, ANSWERS).read_all() is not None
    change(row)
    directory = write_dataset(tmp_path / "bad", answered, schema=schema, **files)  # type: ignore[arg-type]
    dataset = RequestDataset(directory, ANSWERS)
    file = directory / "part=00" / "0001.parquet"
    place = f"{file}, row group 1, row 3, column {column}: {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(place)}"):
        dataset.read_all()
    for group in dataset.row_groups[:3]:
        dataset.read(group)


def test_answers_of_an_unsigned_type(tmp_path: Path) -> None:
    answered = make_answers(np.random.default_rng(3), make_rows(np.random.default_rng(2), 12))
    schema = pa.schema(
        [
            *list(arrow_schema())[:-1],
            ("candidates", pa.list_(pa.struct(_changed(answers=True, answer=pa.uint8(), answered_at_ms=pa.uint64())))),
        ]
    )
    everything = RequestDataset(write_dataset(tmp_path, answered, schema=schema), ANSWERS).read_all()
    assert everything is not None
    assert plain(everything) == expected(answered, more=("answer", "answered_at_ms"))


def test_a_truth_of_integers_or_wide_floats(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(2), 4)
    truth = [None, 3, 2**24 + 1]
    rows[2]["candidates"] = [{**rows[2]["candidates"][0], "true_satisfaction": value} for value in truth]
    for name, dtype in (("integers", pa.int64()), ("floats", pa.float64())):
        children = pa.list_(pa.struct(_changed(true_satisfaction=dtype)))
        schema = pa.schema([*list(arrow_schema())[:-1], ("candidates", children)])
        directory = write_dataset(tmp_path / name, rows, schema=schema)
        everything = RequestDataset(directory, TRUTH).read_all()
        assert everything is not None
        read = nested(everything.candidates)[2]["true_satisfaction"]
        assert np.isnan(read[0]) and read[1:] == [3.0, 2.0**24]


def test_an_infinite_truth_is_an_error(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(2), 4)
    rows[2]["candidates"][0]["true_satisfaction"] = float("inf")
    dataset = RequestDataset(write_dataset(tmp_path, rows), TRUTH)
    with pytest.raises(ValueError, match=r"row 2, column candidates.true_satisfaction: found inf, expected a finite"):
        dataset.read_all()


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


def _changed(*, answers: bool = False, **types: pa.DataType) -> list[pa.Field]:
    """The candidate's fields, some of another type."""
    fields = list(arrow_schema(answers=answers).field("candidates").type.value_type)
    return [pa.field(field.name, types.get(field.name, field.type)) for field in fields]


def _schema_error(tmp_path: Path, schema: pa.Schema, layout: Layout = PLAIN) -> str:
    """The message about a file of such a schema, without rows."""
    file = write_file(tmp_path / "requests" / "a.parquet", schema.empty_table())
    with pytest.raises(ValueError) as caught:
        RequestDataset(tmp_path / "requests", layout)
    message = str(caught.value)
    assert message.startswith(f"{file} does not match the feature schema:\n")
    return message


def _without(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.remove(schema.get_field_index(name))


def _with(schema: pa.Schema, name: str, dtype: pa.DataType) -> pa.Schema:
    return schema.set(schema.get_field_index(name), pa.field(name, dtype))


def test_every_missing_column_is_listed(tmp_path: Path) -> None:
    children = [field for field in _changed() if field.name not in ("tags", "like")]
    schema = _with(_without(arrow_schema(), "user_id"), "candidates", pa.list_(pa.struct(children)))
    message = _schema_error(tmp_path, schema)
    assert "  user_id: missing, expected an integer\n" in message
    assert "  candidates.tags: missing, expected a list of integers\n" in message
    assert "  candidates.like: missing, expected a number or boolean\n" in message
    assert message.count(": missing") == 3


def test_answer_columns_are_asked_for_in_answers_alone(tmp_path: Path) -> None:
    message = _schema_error(tmp_path, arrow_schema(), ANSWERS)
    assert "  candidates.answer: missing, expected an integer (null, 0, 1 or 2)\n" in message
    assert "  candidates.answered_at_ms: missing, expected an integer (null or milliseconds)\n" in message
    open_dataset(tmp_path / "requests")


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("request_id", pa.string(), "request_id: is string, expected an integer"),
        ("timestamp_ms", pa.timestamp("ms"), "timestamp_ms: is timestamp[ms], expected an integer"),
        ("user_id", pa.float64(), "user_id: is double, expected an integer"),
        ("history", pa.int64(), "history.video_id: missing, expected an integer"),
        ("history", arrow_schema().field("history").type.value_type, "history: is struct<"),
        ("candidates", pa.struct(_changed()), "candidates: is struct<"),
        ("user", pa.list_(arrow_schema().field("user").type), "user: is list<"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, name: str, dtype: pa.DataType, problem: str) -> None:
    assert f"\n  {problem}" in _schema_error(tmp_path, _with(arrow_schema(), name, dtype))


@pytest.mark.parametrize(
    ("name", "dtype", "problem"),
    [
        ("tags", pa.int64(), "candidates.tags: is int64, expected a list of integers"),
        ("tags", pa.list_(pa.string()), "expected a list of integers"),
        ("quality", pa.string(), "candidates.quality: is string, expected a number or boolean"),
        ("category_code", pa.list_(pa.int8()), "expected an integer"),
    ],
)
def test_a_wrong_type_of_a_candidate_column_is_named(
    tmp_path: Path, name: str, dtype: pa.DataType, problem: str
) -> None:
    children = pa.list_(pa.struct(_changed(**{name: dtype})))
    assert problem in _schema_error(tmp_path, _with(arrow_schema(), "candidates", children))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all" * 20])
def test_garbage_is_named(tmp_path: Path, content: bytes) -> None:
    write_dataset(tmp_path / "requests", make_rows(np.random.default_rng(0), 2))
    bad = tmp_path / "requests" / "z.parquet"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(bad))}: not a readable Parquet file"):
        open_dataset(tmp_path / "requests")


def test_a_truncated_file_is_named(tmp_path: Path, rows: list[Row]) -> None:
    file = write_file(tmp_path / "requests" / "a.parquet", to_table(rows))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: not a readable Parquet file"):
        open_dataset(tmp_path / "requests")


@pytest.mark.parametrize("make", [True, False])
def test_an_empty_or_absent_directory_is_named(tmp_path: Path, make: bool) -> None:
    directory = tmp_path / "requests"
    if make:
        directory.mkdir()
        (directory / "_SUCCESS").touch()
        (directory / "part-0.parquet.crc").touch()
    with pytest.raises(ValueError, match=f"^{re.escape(str(directory))} holds no Parquet files"):
        open_dataset(directory)


def test_what_a_writer_left_unfinished_is_not_read(tmp_path: Path, rows: list[Row]) -> None:
    """Spark and its like write to `_temporary/` and hidden names until they commit."""
    directory = write_dataset(tmp_path / "_requests", rows)
    for name in ("_temporary/0/part-0.parquet", ".staging/part-0.parquet", "_part.parquet", ".part.parquet"):
        write_file(directory / name, to_table(rows))
    assert len(open_dataset(directory)) == len(rows)


def test_a_file_that_is_written_again_is_read_again(tmp_path: Path, rows: list[Row]) -> None:
    directory = write_dataset(tmp_path / "requests", rows)
    assert len(open_dataset(directory)) == 23
    write_dataset(directory, rows[:5])
    dataset = open_dataset(directory)
    assert len(dataset) == 5
    assert plain(dataset.read_all()) == expected(rows[:5])  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# Several features of one column


def test_a_column_read_for_several_features_obeys_the_smallest_dense_table(tmp_path: Path, rows: list[Row]) -> None:
    """An id that one of the tables has no row for would index past that table's end."""
    for small_first in (True, False):
        tables = [Table(name="small", rows=3, dim=4, id_space="dense"), Table(name="large", rows=9, dim=4)]
        pair = [
            Feature(name="a", source="category_code", table="small"),
            Feature(name="b", source="category_code", table="big"),
        ]
        schema = FeatureSchema(
            tables=(*tables, Table(name="big", rows=4, dim=4, id_space="dense"), Table(name="user", rows=9, dim=4)),
            user=(Feature(name="user_id", table="user"),),
            history=(Feature(name="video_id", table="large"),),
            candidate=(Feature(name="video_id", table="large"), *(pair if small_first else pair[::-1])),
            outcomes=(Outcome(name="like", weight=1.0),),
        )
        column = next(c for c in Layout.of(schema).columns if c.path == "candidates.category_code")
        assert column.table is not None and column.table.name == "small"


def test_a_column_read_as_id_and_as_float_stays_an_integer(rows: list[Row]) -> None:
    """Ids beyond 2**24 would not survive float32."""
    table = Table(name="video", rows=9, dim=4)
    floating = Feature(name="a", kind="float", source="duration_ms")
    identity = Feature(name="b", source="duration_ms", table="video")
    for pair in ((floating, identity), (identity, floating)):
        schema = FeatureSchema(
            tables=(table, Table(name="user", rows=9, dim=4)),
            user=(Feature(name="user_id", table="user"),),
            history=(Feature(name="video_id", table="video"),),
            candidate=pair,
            outcomes=(Outcome(name="like", weight=1.0),),
        )
        column = next(c for c in Layout.of(schema).columns if c.path == "candidates.duration_ms")
        assert column.kind == "id"
