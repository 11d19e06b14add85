"""Tables of Spark's catalog as raw tables.

Spark reads their rows and hands them to its tasks as Arrow batches, which the engine then cleans like Parquet. How
Spark divides a table between tasks depends on the cluster, so each row carries its place in the log: the number of its
file, in the order of the files' names, and its number in the file. Where Spark does not say these, the content of the
rows is their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from easq_rec.errors import UserError
from easq_rec.tools.builder import splits
from easq_rec.tools.builder.clean import PLACES
from easq_rec.tools.builder.config import Source
from easq_rec.tools.builder.splits import LogSplit
from easq_rec.tools.builder.sql import identifier, literal
from easq_rec.tools.builder.tables import (
    FILE,
    FILE_PLACE,
    ROW,
    Order,
    RawTable,
    Scan,
    column_problems,
    raw_columns,
    wanted,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

RELATION = "rows of a catalog table"
HASH, NUMBER = "file hash", "row number"
"""Columns of the rows of tables whose files Spark names: the hash of the file's name, since names would take most of
the bytes; and the number of the row in it."""
FIRST_NUMBER = 2**40
"""Number of the first split of a catalog table. Splits of files have smaller numbers."""
TABLE_NUMBERS, PARTITION_NUMBERS = 2**36, 2**12
"""Numbers for each table, and for each of its partitions."""


@dataclass(frozen=True, kw_only=True)
class RowScan(Scan):
    """Rows of a catalog table, in memory."""

    rows: pa.Table
    """Its columns are `c0`, `c1`, ...; in the order `stored`, also FILE_PLACE, FILE and ROW, unquoted."""

    @property
    def csv(self) -> bool:
        return False

    @contextmanager
    def relation(self, connection: duckdb.DuckDBPyConnection, temp: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
        connection.register(RELATION, self.rows)
        also = (FILE_PLACE, FILE, ROW) if self.order == "stored" else ()
        yield f"({self._over(identifier(RELATION), *also)})", ()
        connection.unregister(RELATION)

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        if self.order == "stored":
            return f"{FILE} || ', row ' || {ROW}", (FILE, ROW)
        return literal(self.source.where), ()

    def unreadable(self, line: str) -> str:
        if "Out of Memory" in line:
            return f"engine.memory_mb: too little memory to read {self.source.where}: {line}"
        return f"{self.source.where}: cannot be read: {line}"


@dataclass(frozen=True, kw_only=True)
class CatalogRows:
    """What a task needs to know of a catalog table."""

    table: str
    """Name in the config."""
    number: int
    """Place among the tables of the config."""
    scan: RowScan
    """Without rows."""
    files: tuple[str, ...]
    """Names of the files, in their order; none in the order `content`."""
    hashes: tuple[int, ...]
    """Of the names."""

    @property
    def nothing(self) -> LogSplit:
        """A split without rows."""
        rows = self.scan.rows
        if self.files:
            none = pa.array([], pa.int64())
            rows = self._placed(rows.append_column(HASH, none).append_column(NUMBER, none))
        return LogSplit(number=FIRST_NUMBER, table=self.table, scan=replace(self.scan, rows=rows))

    def splits(self, batches: Iterable[pa.RecordBatch], partition: int) -> Iterator[LogSplit]:
        """The rows of a partition, `SPLIT_ROWS` at a time."""
        first = FIRST_NUMBER + self.number * TABLE_NUMBERS + partition * PARTITION_NUMBERS
        for number, rows in enumerate(_grouped(batches)):
            scan = replace(self.scan, rows=self._placed(rows) if self.files else rows)
            yield LogSplit(number=first + number, table=self.table, scan=scan)

    def _placed(self, rows: pa.Table) -> pa.Table:
        """Rows with their places in place of the hashes. Raises UserError for a file that was not there before."""
        hashes = np.array(self.hashes, np.int64)
        order = np.argsort(hashes)
        found = rows[HASH].to_numpy()
        at = np.minimum(np.searchsorted(hashes, found, sorter=order), len(hashes) - 1)
        file = order[at].astype(np.int32)
        if not np.array_equal(hashes[file], found):
            raise UserError(f"{self.scan.source.where} has changed while it was read: run the build again")
        number = rows[NUMBER]
        names = pa.DictionaryArray.from_arrays(pa.array(file), pa.array(self.files))
        rows = rows.drop_columns([HASH, NUMBER])
        for name, column in ((FILE_PLACE, pa.array(file)), (FILE, names), (ROW, number)):
            rows = rows.append_column(name.strip('"'), column)
        return rows


@dataclass(frozen=True, kw_only=True)
class CatalogTable(RawTable):
    """A table of Spark's catalog."""

    count: int
    """Its rows."""
    state: list[Any]
    """JSON values that change if the table does."""
    reader: CatalogRows
    frame: DataFrame = field(repr=False)
    """Its rows, as `CatalogRows.splits` takes them."""

    @property
    def rows(self) -> int:
        return self.count

    def identity(self, base: Path) -> list[Any]:
        return self.state

    def count_files(self, counts: Counter[str]) -> None:
        # Without files that Spark names, their number is not known.
        counts[f"{self.name}.files"] += len(self.reader.files)
        counts[f"{self.name}.files.empty"] += 0

    def check(self, counts: Counter[str]) -> None:
        """Raises UserError if not exactly the rows were read that the table had at first."""
        if counts[f"{self.name}.read"] != self.count:
            raise UserError(
                f"{self.source.where} has changed while it was read, from {self.count:,} rows to "
                f"{counts[f'{self.name}.read']:,}: run the build again"
            )


def open_table(
    session: SparkSession, connection: duckdb.DuckDBPyConnection, name: str, source: Source, number: int
) -> tuple[CatalogTable | None, list[str]]:
    """A table by its name in the catalog, or problems of its columns.

    Args:
        connection: tells the types of the columns.
        name: of the table in the config, which is the `number`-th.

    Raises:
        UserError: there is no such table, or Spark cannot read it.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as sql

    assert source.table is not None
    try:
        frame = session.read.table(source.table)
        columns = dict.fromkeys(frame.columns, ("", ""))
        names = [column for column in dict.fromkeys(column for _, column, _ in wanted(source)) if column in columns]
        chosen = [frame["`" + column.replace("`", "``") + "`"].alias(f"c{at}") for at, column in enumerate(names)]
        empty = frame.select(*chosen).limit(0).toArrow()
        columns.update(_typed(connection, names, empty))
        if problems := [*column_problems(name, source, columns, "")]:
            return None, problems
        places = _places(frame)
        if places is None:
            values = frame.select(*chosen)
            hashed = sql.sum(sql.xxhash64(*values.columns).cast("decimal(38,0)"))
            ((rows, content),) = values.agg(sql.count("*"), hashed).collect()
            state, files, hashes = [source.table, rows, str(content)], [], []
        else:
            path, size, changed, row = places
            key = sql.xxhash64(path)
            found = sorted(frame.groupBy(path, size, changed, key).agg(sql.count("*")).collect())
            files, hashes = [one[0] for one in found], [one[3] for one in found]
            if len(set(files)) < len(files):
                raise UserError(f"{source.where} has changed while it was read: run the build again")
            assert len(set(hashes)) == len(files), "two names of files have one hash of 64 bits"
            state = [source.table, *([one[0], one[1], str(one[2])] for one in found)]
            rows = sum(one[4] for one in found)
            chosen += [key.alias(HASH), row.alias(NUMBER)]
    except (PySparkException, Py4JError) as error:
        raise UserError(_reason(source, error)) from error
    cells, selected = raw_columns(source, columns)
    order: Order = "stored" if files else "content"
    scan = RowScan(source=source, columns=cells, selected=selected, order=order, rows=empty)
    reader = CatalogRows(table=name, number=number, scan=scan, files=tuple(files), hashes=tuple(hashes))
    return (
        CatalogTable(
            name=name, source=source, count=int(rows), state=state, reader=reader, frame=frame.select(*chosen)
        ),
        [],
    )


def in_log_order(rows: pa.Table) -> pa.Table:
    """Cleaned rows in the order of the log, without the columns that say it."""
    places = [name for name in PLACES if name in rows.column_names]
    if not places:
        return rows
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in places])
    return rows.drop_columns(places).take(order)


def _places(frame: DataFrame) -> tuple[Column, Column, Column, Column] | None:
    """The name, the size and the time of change of a row's file, and its number in it; None: Spark does not say."""
    from pyspark.errors import AnalysisException

    try:
        known = frame.metadataColumn("_metadata")
        names = ("file_path", "file_size", "file_modification_time", "row_index")
        path, size, changed, row = (known.getField(name) for name in names)
        # Spark resolves the names now, without reading rows.
        frame.select(path, size, changed, row).schema  # noqa: B018
    except AnalysisException:
        return None
    return path, size, changed, row


def _typed(
    connection: duckdb.DuckDBPyConnection, names: list[str], rows: pa.Table
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, (SQL, type)) of the columns."""
    if not names:
        return
    connection.register(RELATION, rows)
    for name, found in zip(names, connection.execute(f"DESCRIBE {identifier(RELATION)}").fetchall(), strict=True):
        yield name, (identifier(found[0]), found[1])
    connection.unregister(RELATION)


def _reason(source: Source, error: Exception) -> str:
    """Why Spark cannot read a table, in one line."""
    line = first_line(error)
    catalog = str(source.table).partition(".")[0]
    if "TABLE_OR_VIEW_NOT_FOUND" in line:
        return f"Spark's catalog has no table {source.table!r}: give its full name, such as 'catalog.database.table'"
    if "REQUIRES_SINGLE_PART_NAMESPACE" in line:
        return f"Spark has no catalog {catalog!r} for table {source.table!r}: set spark.sql.catalog.{catalog}"
    missing = ("DATA_SOURCE_NOT_FOUND", "PLUGIN_CLASS_NOT_FOUND", "ClassNotFound", "NoClassDefFound")
    lacks = any(word in line for word in missing)
    remedy = "; give the jar of its format to spark-submit by --packages or --jars" if lacks else ""
    return f"Spark cannot read table {source.table!r}: {line}{remedy}"


def first_line(error: Exception) -> str:
    """What Spark says, in one line. An exception of the JVM has a line of the bridge to it before that."""
    lines = str(error).splitlines() or [type(error).__name__]
    bridge = lines[0].startswith("An error occurred while calling") and len(lines) > 1
    return lines[1].removeprefix(": ") if bridge else lines[0]


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches as tables of about `SPLIT_ROWS` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        if rows >= splits.SPLIT_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held)
