"""Files of a growing folder: discovery, its order in a checkpoint, Spark's log, and files that are bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.stream.folder import FolderSource
from easq_rec.data.stream.source import Chunk
from easq_rec.errors import UserError
from tests.data.builders import SCHEMA, make_rows, to_table, write_file

LAYOUT = Layout.of(SCHEMA)


@pytest.fixture
def rows() -> list[dict[str, object]]:
    return make_rows(np.random.default_rng(0), 20)


def put(folder: Path, name: str, rows: list[dict[str, object]], row_group: int = 4) -> None:
    """Commits a file by a rename."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file.with_name(f".{file.name}"), to_table(rows), row_group_sizes=[row_group])
    file.with_name(f".{file.name}").rename(file)


def source_of(folder: Path, **options: object) -> FolderSource:
    return FolderSource(folder, LAYOUT, max_history=50, **options)  # type: ignore[arg-type]


def ids(source: FolderSource, chunks: list[Chunk]) -> list[int]:
    return [int(i) for chunk in chunks for i in source.read(chunk.partition, chunk.offset)[0].scalars["request_id"]]


def test_files_are_read_in_the_order_of_their_discovery(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    source = source_of(tmp_path / "requests")
    assert source.poll() == [], "the folder need not exist"
    put(tmp_path / "requests", "b.parquet", rows[4:12])
    put(tmp_path / "requests", "day=1/a.parquet", rows[12:16])
    first = source.poll()
    assert [chunk.offset for chunk in first] == [0, 1, 2] and source.poll() == []
    put(tmp_path / "requests", "a.parquet", rows[:4])
    second = source.poll()
    assert ids(source, first + second) == [*range(4, 16), *range(4)]
    assert [entry.name for entry in source.journal] == ["b.parquet", "day=1/a.parquet", "a.parquet"]
    resumed = source_of(tmp_path / "requests")
    resumed.seek({"": 2}, source.journal)
    put(tmp_path / "requests", "0.parquet", rows[16:20])
    assert ids(resumed, resumed.poll()) == [*range(12, 16), *range(4), *range(16, 20)]


def test_removed_files_are_forgotten_and_unread_ones_are_missed(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    folder = tmp_path / "requests"
    for number in range(4):
        put(folder, f"{number}.parquet", rows[4 * number : 4 * number + 4])
    source = source_of(folder)
    source.poll()
    for number in range(3):
        (folder / f"{number}.parquet").unlink()
    put(folder, "4.parquet", rows[16:20])
    (chunk,) = source.poll()
    assert chunk.offset == 4 and ids(source, [chunk]) == list(range(16, 20))
    assert [entry.name for entry in source.journal] == ["3.parquet", "4.parquet"]
    put(folder, "0.parquet", rows[:4])
    (again,) = source.poll()
    assert again.offset == 5 and ids(source, [again]) == list(range(4)), "a forgotten name is that of a new file"
    with pytest.raises(UserError, match="row group 1 of the stream is not there any more"):
        source.read("", 1)


def test_only_files_that_spark_has_committed_are_read(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    folder = tmp_path / "requests"
    for name, part in (("x", rows[:4]), ("y", rows[4:8]), ("failed", rows[8:12]), ("z", rows[12:16])):
        put(folder, f"{name}.parquet", part)
    log = folder / "_spark_metadata"
    log.mkdir()

    def batch(name: str, *files: str) -> None:
        lines = [json.dumps({"path": f"file:///elsewhere/requests/{f}.parquet", "action": "add"}) for f in files]
        (log / name).write_text("\n".join(["v1", *lines]))

    batch("0", "y")
    batch("1", "x")
    source = source_of(folder)
    assert ids(source, source.poll()) == [*range(4, 8), *range(4)]
    batch("2.compact", "x", "y", "z")
    assert ids(source, source.poll()) == list(range(12, 16))
    (log / "3").write_text("v2\n")
    with pytest.raises(UserError, match="is of version 'v2'"):
        source.poll()
    shutil.rmtree(log)


def test_a_stream_gets_past_a_file_that_is_bad_as_a_whole(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    bad = [{**row, "request_id": 7} for row in rows[:4]]
    put(tmp_path / "requests", "a.parquet", bad)
    put(tmp_path / "requests", "b.parquet", rows[4:8])
    source = source_of(tmp_path / "requests")
    with pytest.raises(UserError, match="an id that no other row"):
        ids(source, source.poll())
    quarantine = Quarantine(tmp_path / "quarantine")
    source = source_of(tmp_path / "requests", quarantine=quarantine)
    chunks = source.poll()
    assert ids(source, chunks) == [7, *range(4, 8)]
    assert quarantine.count() == 3


def test_what_is_no_parquet_is_an_error(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    put(tmp_path / "requests", "a.parquet", rows[:4])
    (tmp_path / "requests" / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is not Parquet"):
        source_of(tmp_path / "requests").poll()


def test_a_folder_of_another_filesystem(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    """Any that fsspec knows; here files in memory."""
    import fsspec

    memory, location = fsspec.filesystem("memory"), "memory://live/requests"
    source = source_of(location)  # type: ignore[arg-type]
    assert source.poll() == []
    put(tmp_path, "a.parquet", rows[:8])
    memory.pipe("/live/requests/a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert ids(source, source.poll()) == list(range(8))
    memory.rm("/live", recursive=True)
