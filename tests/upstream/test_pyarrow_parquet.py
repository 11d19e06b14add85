"""The reader of pyarrow still accepts indices of leaf columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.upstream.pyarrow_parquet import read_row_group

CHANGED = "pyarrow has changed {}: adapt easq_rec/upstream/pyarrow_parquet.py"
ROWS = [
    {"id": 1, "list": [{"a": 1, "b": 10}, {"a": 2, "b": 20}]},
    {"id": 2, "list": []},
    {"id": 3, "list": [{"a": 3, "b": 30}]},
]


@pytest.mark.parametrize("threads", [False, True])
def test_one_field_of_a_nested_list_is_read(tmp_path: Path, threads: bool) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "file.parquet", row_group_size=2)
    with pq.ParquetFile(tmp_path / "file.parquet") as file:
        found = [read_row_group(file, index, [2], threads=threads).to_pylist() for index in range(2)]
        whole = read_row_group(file, 1, None, threads=threads).to_pylist()
    assert found == [[{"list": [{"b": 10}, {"b": 20}]}, {"list": []}], [{"list": [{"b": 30}]}]], CHANGED.format(
        "ParquetFile.reader.read_row_group"
    )
    assert whole == ROWS[2:], CHANGED.format("ParquetFile.reader.read_row_group")
