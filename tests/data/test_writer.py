"""The part writer: full row groups, and fields that are nullable only if they contain a null."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.data.writer import PartWriter, nullable

ENTRY = pa.struct([("video_id", pa.int64()), ("answer", pa.int8()), ("tags", pa.list_(pa.int64()))])
SCHEMA = pa.schema(
    [("request_id", pa.int64()), ("user", pa.struct([("region", pa.int64())])), ("shown", pa.list_(ENTRY))]
)


def rows(first: int, count: int, *, answer: int | None = 2) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "request_id": number,
                "user": {"region": 7},
                "shown": [{"video_id": 1, "answer": answer, "tags": [1, 2]}, {"video_id": 2, "answer": 0, "tags": []}],
            }
            for number in range(first, first + count)
        ],
        schema=SCHEMA,
    )


def optional(schema: pa.Schema) -> set[str]:
    """Paths of the fields that may be null."""

    def walk(path: str, field: pa.Field) -> set[str]:
        inner: set[str] = set()
        if pa.types.is_struct(field.type):
            inner = {name for child in field.type for name in walk(f"{path}.{child.name}", child)}
        elif pa.types.is_list(field.type):
            inner = walk(f"{path}.list.element", field.type.value_field)
        return inner | ({path} if field.nullable else set())

    return {name for field in schema for name in walk(field.name, field)}


@pytest.mark.parametrize("count", [1, 4, 5, 8, 23])
def test_row_groups_are_full_and_parts_have_a_fixed_number_of_them(tmp_path: Path, count: int) -> None:
    writer = PartWriter(tmp_path / "out", row_group=4, part_row_groups=2)
    for first in range(0, count, 3):
        writer.write(rows(first, min(3, count - first)))
    writer.close()
    files = [pq.ParquetFile(file) for file in sorted((tmp_path / "out").iterdir())]
    sizes = [file.metadata.row_group(index).num_rows for file in files for index in range(file.num_row_groups)]
    assert sizes == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    assert [file.num_row_groups for file in files[:-1]] == [2] * (len(files) - 1)
    assert pa.concat_tables([file.read() for file in files]).to_pylist() == rows(0, count).to_pylist()
    assert {frozenset(optional(file.schema_arrow)) for file in files} == {frozenset()}


def test_the_first_null_of_a_field_starts_a_new_part(tmp_path: Path) -> None:
    """Earlier files keep their schema; in later files the field is nullable."""
    tables = [rows(0, 4), rows(4, 4, answer=None), rows(8, 4)]
    writer = PartWriter(tmp_path / "out", row_group=4)
    for table in tables:
        writer.write(table)
    writer.close()
    files = [pq.ParquetFile(file) for file in sorted((tmp_path / "out").iterdir())]
    assert [optional(file.schema_arrow) for file in files] == [set(), {"shown.list.element.answer"}]
    assert [file.num_row_groups for file in files] == [1, 2]
    found = [row for file in files for row in file.read().to_pylist()]
    assert found == [row for table in tables for row in table.to_pylist()]


def test_nulls_are_found_at_every_depth() -> None:
    lines = [
        {"request_id": None, "user": {"region": 1}, "shown": []},
        {"request_id": 1, "user": None, "shown": None},
        {"request_id": 2, "user": {"region": 1}, "shown": [None, {"video_id": 1, "answer": 1, "tags": [None]}]},
    ]
    found = {path for line in lines for path in nullable(pa.Table.from_pylist([line], schema=SCHEMA))}
    assert {"request_id", "user", "shown", "shown.list.element", "shown.list.element.tags.list.element"} <= found
    assert not nullable(rows(0, 3))
    assert nullable(rows(0, 3, answer=None).slice(1, 1)) == {"shown.list.element.answer"}
