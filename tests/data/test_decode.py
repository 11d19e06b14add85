"""Parquet to columns: values equal those of pyarrow's to_pylist, and errors name the place of a bad value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.data.bad_rows import Place
from easq_rec.data.columns import RequestColumns
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.decode import decode
from easq_rec.data.layout import Layout
from tests.data.builders import (
    READ,
    SCHEMA,
    Row,
    arrow_schema,
    candidate_fields,
    expected,
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


def unknown_named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replaces NaN by "unknown", because NaN is not equal to itself."""
    for row in rows:
        truth = row["candidates"]["true_satisfaction"]
        row["candidates"]["true_satisfaction"] = ["unknown" if value != value else value for value in truth]
    return rows


@pytest.fixture
def rows() -> list[Row]:
    return make_rows(np.random.default_rng(0), 23)


@pytest.mark.parametrize("max_history", [0, 2, 50])
def test_values_equal_those_of_to_pylist(tmp_path: Path, rows: list[Row], max_history: int) -> None:
    directory = write_dataset(tmp_path / "requests", rows, file_sizes=[10, 1, 5], row_group_sizes=[3, 4])
    stored = [row for file in sorted(directory.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [row["request_id"] for row in stored] == list(range(23))
    dataset = open_dataset(directory, max_history=max_history)
    everything = dataset.read_all()
    assert everything is not None and len(everything) == len(dataset) == 23
    assert plain(everything) == expected(stored, max_history=max_history)
    assert [len(dataset.read(group)) for group in dataset.row_groups] == [3, 4, 3, 1, 3, 2, 3, 4]


def test_answers_and_truth_are_decoded(tmp_path: Path, rows: list[Row]) -> None:
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


def test_only_columns_of_the_layout_are_decoded(tmp_path: Path, rows: list[Row]) -> None:
    answered = make_answers(np.random.default_rng(1), rows)
    directory = write_dataset(tmp_path / "answers", answered, schema=arrow_schema(answers=True))
    leaves = {
        layout: set(RequestDataset(directory, layout).read_all().candidates.children)  # type: ignore[union-attr]
        for layout in (PLAIN, ANSWERS, TRUTH, Layout.of(SCHEMA, outcomes=False))
    }
    assert leaves[PLAIN] == set(READ)
    assert leaves[ANSWERS] == {*READ, "answer", "answered_at_ms"}
    assert leaves[TRUTH] == {*READ, "true_satisfaction"}
    assert leaves[Layout.of(SCHEMA, outcomes=False)] == set(READ) - {"long_view", "like"}


def test_columns_outside_the_layout_are_not_read(tmp_path: Path, rows: list[Row]) -> None:
    """The pages of `true_satisfaction` are overwritten with garbage, which does not affect readers of other columns."""
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
def test_unread_columns_may_have_any_type(tmp_path: Path, rows: list[Row], dtype: pa.DataType, value: Any) -> None:
    """Parquet numbers columns by leaf: an unread column with several leaves must not shift the columns after it."""
    fields = list(arrow_schema())
    user = fields[4].type
    fields[1] = pa.field("page", dtype)
    fields[4] = pa.field("user", pa.struct([pa.field("age", dtype), *list(user)[1:]]))
    changed = [{**row, "page": value, "user": {**row["user"], "age": value}} for row in rows]
    directory = write_dataset(tmp_path / "requests", changed, schema=pa.schema(fields))
    everything = open_dataset(directory).read_all()
    assert everything is not None and plain(everything) == expected(rows)


def decoded(table: pa.Table, layout: Layout = PLAIN) -> RequestColumns:
    """Decodes a table in memory, without the columns that are not in the layout."""
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
        # Keeps the offset and the surplus values of a slice, as Parquet readers and IPC may return them.
        whole = pa.ListArray.from_arrays(array.offsets, _project(array.values, path, wanted))
        assert len(whole) == len(array)
        return whole
    return array


def test_slices_and_chunked_tables_decode_to_their_rows(rows: list[Row]) -> None:
    table = to_table(rows)
    assert plain(decoded(table.slice(5, 9))) == expected(rows[5:14])
    assert decoded(table.slice(5, 9)).history.offsets[0] == 0
    chunked = pa.concat_tables([table.slice(0, 4), table.slice(9, 0), table.slice(4, 2), table.slice(6, 17)])
    assert chunked.column("candidates").num_chunks == 4
    assert plain(decoded(chunked)) == expected(rows)
    assert len(decoded(table.slice(3, 0))) == 0


def test_a_file_without_rows_is_read(tmp_path: Path) -> None:
    directory = write_dataset(tmp_path / "requests", [])
    dataset = open_dataset(directory)
    assert len(dataset) == 0 and dataset.read_all() is None


def test_answers_of_unsigned_types_are_decoded(tmp_path: Path) -> None:
    answered = make_answers(np.random.default_rng(3), make_rows(np.random.default_rng(2), 12))
    fields = candidate_fields(answers=True, answer=pa.uint8(), answered_at_ms=pa.uint64())
    schema = pa.schema([*list(arrow_schema())[:-1], ("candidates", pa.list_(pa.struct(fields)))])
    everything = RequestDataset(write_dataset(tmp_path, answered, schema=schema), ANSWERS).read_all()
    assert everything is not None
    assert plain(everything) == expected(answered, more=("answer", "answered_at_ms"))


def test_a_truth_of_int64_or_float64_becomes_float32(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(2), 4)
    truth = [None, 3, 2**24 + 1]
    rows[2]["candidates"] = [{**rows[2]["candidates"][0], "true_satisfaction": value} for value in truth]
    for name, dtype in (("integers", pa.int64()), ("floats", pa.float64())):
        children = pa.list_(pa.struct(candidate_fields(true_satisfaction=dtype)))
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


def test_an_id_above_int64_is_an_error(tmp_path: Path) -> None:
    """Converted to int64 it would be another id, also in score files."""
    rows = make_rows(np.random.default_rng(2), 4)
    for row in rows:
        row["candidates"] = [{**row["candidates"][0], "video_id": 2**63 - 1}]
    fields = candidate_fields(video_id=pa.uint64())
    schema = pa.schema([*list(arrow_schema())[:-1], ("candidates", pa.list_(pa.struct(fields)))])
    everything = open_dataset(write_dataset(tmp_path / "good", rows, schema=schema)).read_all()
    assert everything is not None and everything.candidates.column("video_id").tolist() == [2**63 - 1] * 4
    rows[2]["candidates"][0]["video_id"] = 2**63
    message = r"row 2, column candidates.video_id: found 9223372036854775808, expected an integer below 2\*\*63$"
    with pytest.raises(ValueError, match=message):
        open_dataset(write_dataset(tmp_path / "bad", rows, schema=schema)).read_all()
