"""The pieces of a build: their number changes no row, and the files are in the order of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from easq_rec.tools.builder import splits
from easq_rec.tools.builder.config import Engine
from easq_rec.tools.builder.tables import connect, open_tables
from tests.tools.builder.logs import (
    HOUR_MS,
    build_of,
    config,
    quarantined,
    random_log,
    read_rows,
    run_build,
    sessions,
    write_log,
)


@pytest.mark.parametrize("values", [config(), sessions()], ids=["request ids", "sessions"])
def test_splits_and_buckets_do_not_change_the_rows(tmp_path: Path, values: dict[str, Any]) -> None:
    write_log(tmp_path, random_log(10, impressions=200))
    one, many = run_build(tmp_path, values, out="one"), run_build(tmp_path, values, divided=True, out="many")
    for name in ("requests", "answers"):
        whole = read_rows(one / name)
        assert sorted(map(str, whole)) == sorted(map(str, read_rows(many / name))) and whole
    assert quarantined(one) == quarantined(many)


@pytest.mark.parametrize("most", [1, 60, 130, 10**6])
def test_splits_have_every_row_once_and_in_order(tmp_path: Path, most: int) -> None:
    write_log(tmp_path, random_log(3, impressions=170))
    (tmp_path / "impressions").mkdir()
    table = pq.read_table(tmp_path / "impressions.parquet")
    # Files of 90, 0, 60 and 20 rows in row groups of 25.
    for number, (begin, rows) in enumerate([(0, 90), (90, 0), (90, 60), (150, 20)]):
        part = table.slice(begin, rows)
        pq.write_table(part, tmp_path / "impressions" / f"{number}.parquet", row_group_size=25)
    build = build_of(config(impressions={"path": "impressions"}))
    with connect(Engine(), tmp_path / "temp") as connection, mock.patch.object(splits, "SPLIT_ROWS", most):
        tables = open_tables(connection, build, tmp_path)
        found = [split for split in splits.splits_of(tables) if split.table == "impressions"]
        slots = []
        for split in found:
            with split.scan.relation(connection, tmp_path) as (relation, _):
                column = split.scan.columns["slot"].sql
                rows = connection.sql(f"SELECT {column} AS slot FROM {relation}").fetchall()
            assert len(rows) == split.scan.rows and (len(rows) <= max(most, 25))
            slots += [row[0] for row in rows]
    assert slots == table["slot"].to_pylist()
    assert (len(found) > 1) == (most < 10**6)
    assert [split.number for split in found] == list(range(len(found)))


def test_the_output_is_in_time_order(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(12, impressions=200))
    for divided in (False, True):
        out = run_build(tmp_path, config(output={"slice_h": 1}), divided=divided, out=f"out{divided}")
        for name in ("requests", "answers"):
            times = [row["timestamp_ms"] for row in read_rows(out / name)]
            assert times == sorted(times)
        assert sorted(folder.name for folder in (out / "requests").iterdir()) == [
            "20231114T22", "20231114T23", "20231115T00", "20231115T01",
        ]  # fmt: skip
        for file in (out / "requests").rglob("*.parquet"):
            metadata = pq.read_metadata(file)
            times = pq.read_table(file)["timestamp_ms"].to_pylist()
            assert len({time // HOUR_MS for time in times}) == 1, "a file contains requests of one time slice only"
            sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            assert len(sizes) <= 2 and set(sizes[:-1]) <= {3}
            assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_hours_are_hive_folders(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(13))
    out = run_build(tmp_path, config(output={"slice_h": 6, "hive": True}))
    folders = sorted(str(file.parent.relative_to(out / "requests")) for file in (out / "requests").rglob("*.parquet"))
    assert set(folders) == {"date=2023-11-14/hour=18", "date=2023-11-15/hour=00"}
