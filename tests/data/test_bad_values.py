"""A bad value is either an error that names its place, or its row goes to quarantine with the reason."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.data.layout import Layout
from easq_rec.data.quarantine import Quarantine
from tests.data.builders import SCHEMA, Row, arrow_schema, expected, make_answers, make_rows, plain, write_dataset

PLAIN, ANSWERS = Layout.of(SCHEMA), Layout.of(SCHEMA, answers=True)
Change = Callable[[Row], None]


def _set(path: str, value: Any) -> Change:
    """Sets a field of the row; in a list of structs, the field of its last entry."""

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
    ("candidates.long_view", _set("candidates.long_view", 2), "found 2.0, expected 0 or 1 (an outcome of kind amount"),
    ("candidates.like", _set("candidates.like", None), "found null, expected a number"),
    ("candidates.answer", _set("candidates.answer", 3), "found 3, expected null, 0, 1 or 2"),
    ("candidates.answer", _set("candidates.answer", -2), "found -2, expected null, 0, 1 or 2"),
    ("candidates.answer", _set("candidates.answer", -1), "found -1, expected null, 0, 1 or 2"),
    ("request_id", _set("request_id", 9), "found 9, expected an id that no other row of the row group has"),
    ("timestamp_ms", _set("timestamp_ms", None), "found null, expected an integer"),
    ("candidates.answered_at_ms", _set("candidates.answered_at_ms", 7), "found 7, expected a time at or after the"),
    ("candidates.answered_at_ms", _set("candidates.answered_at_ms", None), "found null, expected a time at or after"),
]


each_bad_value = pytest.mark.parametrize(
    ("column", "change", "message"), BAD, ids=[f"{bad[0]}: {bad[2]}" for bad in BAD]
)


def with_bad_row(directory: Path, change: Change | None) -> list[Row]:
    """Writes twelve answered requests to two files and changes the last: row 3 of row group 1 in the second file."""
    answered = make_answers(np.random.default_rng(3), make_rows(np.random.default_rng(2), 12))
    row = answered[11]
    # Every list has entries, and the last candidate has an answer.
    row["user"]["interests"] = [1]
    row["history"] = [{"video_id": 1, "author_id": 2, "timestamp_ms": 3, "watch_ratio": 0.5}]
    more = {"tags": [1, 2], "genres": [3], "answer": 2, "answered_at_ms": row["timestamp_ms"] + 5}
    row["candidates"].append(copy.deepcopy(row["candidates"][0]) | more)
    if change is not None:
        change(row)
    write_dataset(directory, answered, schema=arrow_schema(answers=True), file_sizes=[6], row_group_sizes=[2, 4])
    return answered


@each_bad_value
def test_the_error_names_the_place_of_a_bad_value(tmp_path: Path, column: str, change: Change, message: str) -> None:
    with_bad_row(tmp_path / "good", None)
    assert RequestDataset(tmp_path / "good", ANSWERS).read_all() is not None
    with_bad_row(tmp_path / "bad", change)
    dataset = RequestDataset(tmp_path / "bad", ANSWERS)
    file = tmp_path / "bad" / "part=00" / "0001.parquet"
    place = f"{file}, row group 1, row 3, column {column}: {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(place)}"):
        dataset.read_all()
    for group in dataset.row_groups[:3]:
        dataset.read(group)


@each_bad_value
def test_a_bad_row_goes_to_quarantine_with_the_reason(
    tmp_path: Path, column: str, change: Change, message: str
) -> None:
    rows = with_bad_row(tmp_path / "bad", change)
    quarantine = Quarantine(tmp_path / "quarantine")
    dataset = RequestDataset(tmp_path / "bad", ANSWERS, quarantine=quarantine)
    for _ in range(2):  # two epochs read the row twice
        everything = dataset.read_all()
        assert everything is not None
        assert plain(everything) == expected(rows[:11], more=("answer", "answered_at_ms"))
        assert dataset.read_with_positions(dataset.row_groups[3])[1].tolist() == [0, 1, 2, -1]
        assert quarantine.count() == 1
    (file,) = (tmp_path / "quarantine").iterdir()
    (found,) = pq.read_table(file).to_pylist()
    assert found["bad_file"] == str(tmp_path / "bad" / "part=00" / "0001.parquet")
    assert (found["bad_row_group"], found["bad_row"], found["bad_column"]) == (1, 3, column)
    assert f"found {found['bad_value']}, expected {found['bad_expected']}".startswith(message)
    stored = pq.read_table(tmp_path / "bad" / "part=00" / "0001.parquet").to_pylist()[-1]
    assert str({name: found[name] for name in stored}) == str(stored), "the row equals that of the file"


def test_rows_that_are_bad_for_several_reasons_are_quarantined_once(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(2), 12)
    rows[1]["candidates"][0]["quality"] = float("nan")
    rows[1]["user"]["region"] = 9
    rows[4]["user"]["region"] = 7
    rows[4]["history"] = None
    rows[7]["history"] = None
    quarantine = Quarantine(tmp_path / "quarantine")
    dataset = RequestDataset(write_dataset(tmp_path / "bad", rows), PLAIN, quarantine=quarantine)
    columns, placed = dataset.read_with_positions(dataset.row_groups[0])
    assert columns.scalars["request_id"].tolist() == [0, 2, 3, 5, 6, 8, 9, 10, 11]
    assert placed.tolist() == [0, -1, 1, 2, -1, 3, 4, -1, 5, 6, 7, 8]
    found = [row for file in quarantine.folder.iterdir() for row in pq.read_table(file).to_pylist()]
    assert all(row["bad_row"] == row["request_id"] for row in found)
    assert sorted(row["request_id"] for row in found) == [1, 4, 7] and quarantine.count() == 3


def test_a_row_group_with_only_bad_rows_is_an_error(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(2), 6)
    for row in rows[3:]:
        row["user"]["region"] = 99
    quarantine = Quarantine(tmp_path / "quarantine")
    dataset = RequestDataset(write_dataset(tmp_path / "bad", rows, row_group_sizes=[3]), PLAIN, quarantine=quarantine)
    dataset.read(dataset.row_groups[0])
    with pytest.raises(ValueError, match=r"found 99, expected .* every row .* has this fault: repair the dataset"):
        dataset.read(dataset.row_groups[1])
    assert quarantine.count() == 0


def test_a_row_without_a_timestamp_goes_to_quarantine(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(4), 12)
    for index, row in enumerate(rows):
        row["timestamp_ms"] = 1_000 + index
    rows[5]["timestamp_ms"] = None
    directory = write_dataset(tmp_path / "bad", rows, row_group_sizes=[12])
    quarantine = Quarantine(tmp_path / "quarantine")
    for start, end, ids in ((1_002, 1_008, [2, 3, 4, 6, 7]), (0, 2_000, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])):
        period = Period(start_ms=start, end_ms=end)
        dataset = RequestDataset(directory, PLAIN, period=period, quarantine=quarantine)
        columns = dataset.read(dataset.row_groups[0])
        assert columns.scalars["request_id"].tolist() == ids
        assert quarantine.count() == 1
        strict = RequestDataset(directory, PLAIN, period=period)
        with pytest.raises(ValueError, match="row 5, column timestamp_ms: found null, expected an integer"):
            strict.read(strict.row_groups[0])


def test_an_error_within_a_period_names_the_row_in_the_file(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(4), 12)
    for index, row in enumerate(rows):
        row["timestamp_ms"] = 1_000 + index
    rows[7]["user"]["region"] = 9
    directory = write_dataset(tmp_path, rows)
    dataset = RequestDataset(directory, PLAIN, period=Period(start_ms=1_004, end_ms=2_000))
    with pytest.raises(ValueError, match=r"row 7, column user\.region: found 9"):
        dataset.read_all()
    early = RequestDataset(directory, PLAIN, period=Period(start_ms=0, end_ms=1_007))
    assert len(early.read(early.row_groups[0])) == 7, "rows outside the period are not checked"
