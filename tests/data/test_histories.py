"""Reading of histories by reference: equal to the plain layout, checked, and decoded once per machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.data.bad_rows import Place
from easq_rec.data.columns import Array, Ragged
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.histories import REFERENCE, HistoryFolder
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from easq_rec.errors import UserError
from easq_rec.tools.histories.command import convert
from tests.history_logs import requests, write

SCHEMA = FeatureSchema(
    tables=(Table(name="video", rows=64, dim=4), Table(name="region", rows=8, dim=4)),
    user=(Feature(name="region", table="region"),),
    history=(Feature(name="video_id", table="video"),),
    candidate=(Feature(name="video_id", table="video"),),
    outcomes=(Outcome(name="like", weight=1.0),),
)


@pytest.fixture(autouse=True)
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary" / f"easq-rec-{os.getuid()}" / "histories"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the same data in both layouts."""
    write(tmp_path / "inline" / "requests", requests(200, longest=9))
    convert(tmp_path / "inline", tmp_path / "reference", histories="reference", part_entries=500)
    return tmp_path


def opened(folder: Path, **options: Any) -> RequestDataset:
    return RequestDataset(folder / "requests", Layout.of(SCHEMA), **options)


def assert_same(one: Array | Ragged, other: Array | Ragged) -> None:
    if isinstance(one, Ragged):
        assert isinstance(other, Ragged) and one.children.keys() == other.children.keys()
        assert np.array_equal(one.offsets, other.offsets)
        for name, child in one.children.items():
            assert_same(child, other.children[name])
    else:
        assert not isinstance(other, Ragged) and one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("max_history", [0, 4, 50])
@pytest.mark.parametrize("part", [(0, 1), (0.3, 0.62)])
def test_both_layouts_are_read_alike(data: Path, max_history: int, part: tuple[float, float]) -> None:
    times = [row["timestamp_ms"] for row in requests(200, longest=9)]
    start, end = (times[0] + round(share * (times[-1] + 1 - times[0])) for share in part)
    options = {"max_history": max_history, "period": Period(start_ms=start, end_ms=end)}
    inline, reference = opened(data / "inline", **options), opened(data / "reference", **options)
    assert len(list((data / "reference" / "histories").iterdir())) > 1
    assert len(inline) == len(reference) > 50
    for mine, theirs in zip(inline.row_groups, reference.row_groups, strict=True):
        if mine.kept:
            one, other = inline.read(mine), reference.read(theirs)
            assert_same(one.history, other.history)
            assert_same(one.candidates, other.candidates)
            for name, column in one.scalars.items():
                assert_same(column, other.scalars[name])
    assert reference.stored(reference.row_groups[0]).schema.field("history").type == REFERENCE


def test_rows_of_several_parts_keep_their_order(data: Path) -> None:
    """A row group that another tool put together from all files."""
    files = sorted((data / "reference" / "requests").iterdir())
    table = pa.concat_tables([pq.read_table(file) for file in files])
    order = np.random.default_rng(0).permutation(len(table))
    for file in files:
        file.unlink()
    pq.write_table(table.take(order), files[0])
    found = opened(data / "reference").read_all()
    expected = opened(data / "inline").read_all()
    assert found is not None and expected is not None
    assert_same(found.history, expected.take(order).history)


def test_the_first_reader_decodes_for_all(data: Path, decoded: Path) -> None:
    dataset = opened(data / "reference")
    dataset.read(dataset.row_groups[0])
    (file,) = decoded.iterdir()
    before = file.stat()
    again = opened(data / "reference")
    again.read(again.row_groups[0])
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_ino == before.st_ino
    assert decoded.stat().st_mode & 0o777 == 0o700
    # A file that was written again is decoded again.
    part = data / "reference" / "histories" / "part-00000.parquet"
    os.utime(part, ns=(1, 1))
    other = opened(data / "reference")
    other.read(other.row_groups[0])
    assert len(list(decoded.iterdir())) == 2


def test_without_space_for_the_decoded_file(data: Path, decoded: Path) -> None:
    decoded.parent.write_text("a file in the place of the folder")
    dataset = opened(data / "reference")
    with pytest.raises(UserError, match=r"its .* MiB cannot be decoded .* let TMPDIR name a folder"):
        dataset.read(dataset.row_groups[0])


def test_the_fingerprint_covers_the_histories(data: Path) -> None:
    before = opened(data / "reference").fingerprint
    part = data / "reference" / "histories" / "part-00000.parquet"
    pq.write_table(pq.read_table(part), part, compression="none")
    assert opened(data / "reference").fingerprint != before


def test_requests_without_their_histories_are_refused(data: Path) -> None:
    (data / "reference" / "histories").rename(data / "elsewhere")
    with pytest.raises(UserError, match=r"refer to histories, but there is no folder .*histories"):
        opened(data / "reference")
    (data / "elsewhere" / "part-00001.parquet").unlink()
    (data / "elsewhere").rename(data / "reference" / "histories")
    dataset = opened(data / "reference")
    with pytest.raises(UserError, match=r"column history.part: found 1, expected the number of a file"):
        dataset.read_all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("row", 99, r"column history.row: found 99, expected one of the 7 rows in histories/part-00000.parquet"),
        ("row", -1, r"column history.row: found -1, expected one of the 7 rows"),
        ("row", None, r"column history.row: found \d, expected a row of the request's user"),
        ("begin", -1, r"column history.begin and length: found -1 and \d, expected a range of the user's list"),
        ("length", 9_999, r"column history.begin and length: found \d+ and 9999, expected a range"),
        ("part", 77, r"column history.part: found 77, expected the number of a file"),
    ],
)
def test_wrong_references_are_bad_rows(data: Path, tmp_path: Path, name: str, value: int | None, message: str) -> None:
    file = data / "reference" / "requests" / "part-00.parquet"
    table = pq.read_table(file)
    rows = table["history"].to_pylist()
    rows[3][name] = (rows[3]["row"] + 1) % 7 if value is None else value
    table = table.set_column(table.schema.get_field_index("history"), "history", pa.array(rows, REFERENCE))
    pq.write_table(table, file, row_group_size=16)
    dataset = opened(data / "reference")
    with pytest.raises(UserError, match=rf"part-00.parquet, row group 0, row 3, {message}"):
        dataset.read(dataset.row_groups[0])
    kept = opened(data / "reference", quarantine=Quarantine(tmp_path / "quarantine"))
    assert len(kept.read(kept.row_groups[0])) == 15


def test_no_rows_have_the_columns_of_some(data: Path) -> None:
    dataset = opened(data / "reference")
    table = dataset.stored(dataset.row_groups[0])
    folder, place = HistoryFolder(data / "reference" / "requests"), Place(file="file", row_group=0)
    some, none = (folder.resolve(rows, place, ["video_id"]) for rows in (table, table.slice(0, 0)))
    assert some.schema.field("history").type == none.schema.field("history").type and not len(none)
