"""Selection of the requests in a period, and the time line of a dataset."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easq_rec.data.dataset import Period, RequestDataset, split, time_line
from easq_rec.data.order import RequestReader
from easq_rec.data.position import StreamPosition
from tests.data.builders import Row, ids, make_rows, open_dataset, to_table, write_dataset, write_file


def times_of(rows: list[Row], period: Period) -> list[int]:
    return [row["request_id"] for row in rows if period.start_ms <= row["timestamp_ms"] < period.end_ms]


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("window", [None, 2])
def test_a_period_is_exact_at_its_bounds(tmp_path: Path, statistics: bool, window: int | None) -> None:
    rows = make_rows(np.random.default_rng(4), 20)
    for row, time in zip(rows, np.repeat(np.arange(10, 20), 2).tolist(), strict=True):
        row["timestamp_ms"] = time
    directory = write_dataset(tmp_path, rows, file_sizes=[7, 5], row_group_sizes=[3], statistics=statistics)
    for start, end in itertools.combinations((8, 10, 11, 13, 16, 19, 20, 22), 2):
        period = Period(start_ms=start, end_ms=end)
        dataset = open_dataset(directory, period=period)
        expected = times_of(rows, period)
        assert len(dataset) == len(expected)
        columns = dataset.read_all()
        assert (ids(columns) if columns is not None else []) == expected
        if (start + end) % 5 == 0:
            readers = [
                RequestReader(dataset, batch_size=2, rank=rank, world_size=2, shuffle_row_groups=window, spread=True)
                for rank in range(2)
            ]
            slices = [part for reader in readers for part in reader.read(StreamPosition(), epochs=1)]
            assert sorted(itertools.chain.from_iterable(ids(part.requests) for part in slices)) == expected


def test_unsorted_row_groups_are_filtered_row_by_row(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(4), 20)
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(20)]
    directory = write_dataset(tmp_path, shuffled, row_group_sizes=[6])
    period = Period(start_ms=rows[5]["timestamp_ms"], end_ms=rows[12]["timestamp_ms"])
    columns = open_dataset(directory, period=period).read_all()
    assert columns is not None and ids(columns) == times_of(shuffled, period)


@pytest.mark.parametrize("statistics", [True, False])
def test_time_line_and_split(tmp_path: Path, statistics: bool) -> None:
    rows = make_rows(np.random.default_rng(4), 11)
    for index, row in enumerate(rows):
        row["timestamp_ms"] = 1_700_000_000_000 + 10 * index
    directory = write_dataset(tmp_path, rows, file_sizes=[4], row_group_sizes=[3, 1], statistics=statistics)
    write_file(directory / "empty.parquet", to_table([]))
    first, last = 1_700_000_000_000, 1_700_000_000_100
    assert time_line(directory) == (first, last)
    train, holdout = split(directory, 0.2)
    assert train == Period(start_ms=first, end_ms=first + 80)
    assert holdout == Period(start_ms=first + 80, end_ms=last + 1)
    assert len(open_dataset(directory, period=train)) == 8
    assert len(open_dataset(directory, period=holdout)) == 3


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> RequestDataset:
    rows = make_rows(np.random.default_rng(1), 60)
    return open_dataset(write_dataset(tmp_path_factory.mktemp("periods"), rows, file_sizes=[20], row_group_sizes=[5]))


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_request_is_either_trained_on_or_held_out(sixty: RequestDataset, holdout: float) -> None:
    directory = Path(sixty.row_groups[0].file).parents[1]
    train, held_out = (open_dataset(directory, period=period) for period in split(directory, holdout))
    assert len(train) + len(held_out) == 60
    assert holdout > 0 or len(train) == 60
    assert holdout == 0 or len(held_out) > 0


def test_a_dataset_without_requests_has_no_time_line(tmp_path: Path) -> None:
    write_dataset(tmp_path, [])
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))} has no requests"):
        time_line(tmp_path)


def test_a_timestamp_column_of_another_type_is_named(tmp_path: Path) -> None:
    for name, dtype in (("text", pa.string()), ("date", pa.timestamp("ms"))):
        table = pa.table({"timestamp_ms": pa.array([1], pa.int64()).cast(dtype)})
        file = write_file(tmp_path / name / "a.parquet", table)
        message = re.escape(f"{file}: a dataset needs an integer column timestamp_ms; found of type {dtype}")
        with pytest.raises(ValueError, match=f"^{message}"):
            time_line(tmp_path / name)
    file = write_file(tmp_path / "none" / "a.parquet", pa.table({"time": [1]}))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))}: .* timestamp_ms; found none among \['time'\]"):
        time_line(tmp_path / "none")


def test_a_missing_timestamp_is_named_without_statistics(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(4), 6)
    rows[4]["timestamp_ms"] = None
    directory = write_dataset(tmp_path, rows, row_group_sizes=[3], statistics=False)
    with pytest.raises(ValueError, match="row group 1, row 1, column timestamp_ms: found null, expected an integer"):
        time_line(directory)
