"""Tables of Spark's catalog, without Spark: who may read them, and that they stay as they were."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest

from easq_rec.errors import UserError
from easq_rec.tools.builder import splits
from easq_rec.tools.builder.catalog import HASH, NUMBER, CatalogRows, CatalogTable, RowScan
from tests.tools.builder.logs import build_of, config, random_log, run_build, write_log

BUILD = build_of(config(users={"path": None, "table": "logs.users"}))


def reader() -> CatalogRows:
    source = BUILD.sources["users"]
    scan = RowScan(source=source, columns={}, selected={}, order="stored", rows=pa.table({}))
    # The hashes are not in the order of the names.
    return CatalogRows(table="users", number=2, scan=scan, files=("a", "b", "c"), hashes=(7, -5, 3))


def batch(hashes: list[int], first: int = 0) -> pa.RecordBatch:
    numbers = list(range(first, first + len(hashes)))
    return pa.RecordBatch.from_pydict({HASH: pa.array(hashes, pa.int64()), NUMBER: pa.array(numbers, pa.int64())})


def test_only_spark_reads_tables(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(1, impressions=20))
    values = config(users={"path": None, "table": "logs.users"}, videos={"path": None, "table": "logs.videos"})
    with pytest.raises(UserError, match=r"users.table, videos.table: only --engine spark reads .* export") as error:
        run_build(tmp_path, values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"table": "logs.users"}, "users.table='logs.users' is not allowed: either path or table"),
        ({"path": None}, "users.path: missing: add path = .*, or table = "),
        ({"path": ""}, "users.path='' is not allowed"),
        ({"path": None, "table": ""}, "users.table='' is not allowed"),
    ],
)
def test_a_table_is_named_by_path_or_in_the_catalog(change: dict[str, str | None], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build_of(config(users=change))


def test_rows_get_the_places_of_their_files() -> None:
    with mock.patch.object(splits, "SPLIT_ROWS", 3):
        made = list(reader().splits([batch([3, 3]), batch([7, -5], 2), batch([3], 4)], partition=1))
    assert [len(split.scan.rows) for split in made] == [4, 1]
    rows = pa.concat_tables([split.scan.rows for split in made]).to_pydict()
    assert rows["place of the file"] == [2, 2, 0, 1, 2]
    assert rows["file name"] == ["c", "c", "a", "b", "c"]
    assert rows["row number in file"] == [0, 1, 2, 3, 4]
    other = list(reader().splits([batch([3])], partition=2))
    assert len({split.number for split in [*made, *other]}) == 3


def test_a_table_that_changes_while_it_is_read_is_an_error() -> None:
    with pytest.raises(UserError, match=r"table 'logs.users' has changed while it was read: run the build again"):
        list(reader().splits([batch([3, 4])], partition=0))
    source = BUILD.sources["users"]
    table = CatalogTable(name="users", source=source, count=5, state=[], reader=reader(), frame=None)
    table.check(Counter({"users.read": 5}))
    with pytest.raises(UserError, match=r"table 'logs.users' has changed while it was read, from 5 rows to 4"):
        table.check(Counter({"users.read": 4}))
