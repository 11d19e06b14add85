"""The raw tables in the SQL engine: files, columns, types, and the check that the config's columns exist."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import duckdb

from easq_rec.errors import UserError
from easq_rec.tools.builder import csv_file, parquet_file
from easq_rec.tools.builder.casts import FLOATS, INTEGERS, TEXTS, WIDE_INTEGERS
from easq_rec.tools.builder.config import Build, Engine, Field, Source
from easq_rec.tools.builder.parquet_file import UTC_TIMESTAMP, Footers
from easq_rec.tools.builder.raw_files import RawFile, RawFiles, find
from easq_rec.tools.builder.sql import identifier, literal

WEIGHTED = re.compile(r'STRUCT\((?=.*\bid"? \w)(?=.*\bweight"? \w).*\)\[\d*\]')
"""SQL types of lists of structs with an id and a weight."""
CSV_ROW_BYTES = 40
"""An estimate, used only for the number of buckets."""
COMPRESSION = 5
"""Estimated bytes of text per compressed byte."""
FILE, ROW = '"file name"', '"row number in file"'
"""Columns of the relation of Parquet files that say where a row lies. In CSV the engine does not number the rows."""
FILE_PLACE = '"place of the file"'
"""Column of relations in the order `stored`: the number of a row's file in the log."""
Order = Literal["read", "stored", "content"]
"""The order of the log, which decides between duplicates: that in which rows are read; that of FILE_PLACE and ROW; or
that of the rows' content."""
NESTED = re.compile(r"(.*\]|(STRUCT|MAP|UNION|VARIANT).*)")


@dataclass(frozen=True, kw_only=True)
class RawColumn:
    """A column of a scan's relation."""

    sql: str
    """Its name in the relation, quoted."""
    dtype: str
    """SQL type, or a name of `parquet_file`; VARCHAR in CSV."""


@dataclass(frozen=True, kw_only=True)
class Scan(ABC):
    """Rows of a raw table with the same columns, read by one SQL relation."""

    source: Source
    columns: dict[str, RawColumn]
    """The columns that the config names, by their names in the log."""
    selected: dict[str, str]
    """SQL over the table's own columns, by the same names."""
    order: Order = "read"

    @property
    @abstractmethod
    def csv(self) -> bool: ...

    @abstractmethod
    def relation(
        self, connection: duckdb.DuckDBPyConnection, temp: Path
    ) -> AbstractContextManager[tuple[str, tuple[str, ...]]]:
        """(SQL of the rows, CSV lines that are not rows); temporary files are in `temp` until the block ends.

        Raises UserError if a file cannot be read.
        """

    @property
    @abstractmethod
    def place(self) -> tuple[str, tuple[str, ...]]:
        """SQL of a row's place, and the columns of the relation that it needs."""

    @abstractmethod
    def unreadable(self, line: str) -> str:
        """The error for rows that the engine fails to read; it does not say which of them."""

    def _over(self, relation: str, *also: str) -> str:
        selected = [f"{expression} AS {self.columns[name].sql}" for name, expression in self.selected.items()]
        return f"SELECT {', '.join([*selected, *also])} FROM {relation}"


@dataclass(frozen=True, kw_only=True)
class FileScan(Scan):
    """Consecutive files of a raw table with the same columns, read in order."""

    files: tuple[RawFile, ...]
    """One file if it is CSV."""
    width: int = 0
    """Columns of a CSV file."""
    rows: int
    """An estimate for CSV."""
    group_rows: tuple[tuple[int, ...], ...] = ()
    """For each Parquet file, the rows of its row groups."""
    between: tuple[int, int] | None = None
    """Of a single Parquet file, only the rows from the first number to before the second one."""

    @property
    def csv(self) -> bool:
        return self.files[0].csv

    @contextmanager
    def relation(self, connection: duckdb.DuckDBPyConnection, temp: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
        if not self.csv:
            files = parquet_file.relation([file.path for file in self.files])
            rows = self._over(files, f"filename AS {FILE}", f"file_row_number AS {ROW}")
            # The engine reads only the row groups that have such rows.
            between = self.between
            if between is not None:
                rows += " WHERE file_row_number >= {} AND file_row_number < {}".format(*between)
            yield f"({rows})", ()
            return
        (file,) = self.files
        with csv_file.prepared(file, self.source, temp) as ready:
            yield f"({self._over(csv_file.relation(ready, self.width, self.source))})", ready.rejected

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        if self.csv:
            return literal(self.files[0].path), ()
        return f"{FILE} || ', row ' || {ROW}", (FILE, ROW)

    def unreadable(self, line: str) -> str:
        paths = [file.path for file in self.files]
        if "Out of Memory" in line:
            return f"engine.memory_mb: too little memory to read {paths[0]}: {line}"
        found = "" if self.csv else parquet_file.damage(paths)
        listed = paths[0] if len(paths) == 1 else f"one of {len(paths)} files from {paths[0]} on"
        return found or f"{listed}: cannot be read: {line}"


@dataclass(frozen=True, kw_only=True)
class RawTable(ABC):
    """One raw table."""

    name: str
    source: Source

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many; an estimate for CSV."""

    @abstractmethod
    def identity(self, base: Path) -> list[Any]:
        """JSON values that change if the table does.

        Args:
            base: directory that paths of the config are relative to.
        """

    @abstractmethod
    def count_files(self, counts: Counter[str]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class FileTable(RawTable):
    """A raw table in files."""

    files: RawFiles
    scans: tuple[FileScan, ...] = field(repr=False)

    @property
    def rows(self) -> int:
        return sum(scan.rows for scan in self.scans)

    def identity(self, base: Path) -> list[Any]:
        stats = {file: os.stat(file) for file in self.files.paths}
        return [[os.path.relpath(file, base), one.st_size, one.st_mtime_ns] for file, one in stats.items()]

    def count_files(self, counts: Counter[str]) -> None:
        counts[f"{self.name}.files"] += len(self.files.paths)
        counts[f"{self.name}.files.empty"] += len(self.files.empty)


OpenCatalogTable = Callable[[str, Source], tuple[RawTable | None, list[str]]]
"""Opens a table of a catalog by its name in the config: the table, or problems. Raises UserError."""


def connect(engine: Engine, temp: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory engine with limited resources and without network access."""
    settings: dict[str, Any] = {
        "memory_limit": f"{engine.memory_mb}MB",
        "threads": engine.threads,
        "temp_directory": str(temp),
        # The row order decides between equal answers and between duplicate impressions.
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        # Not this machine's: no result may depend on it.
        "TimeZone": "UTC",
    }
    connection = duckdb.connect(":memory:", config=settings)
    # It drops a check that the statistics of a Parquet file call needless, and they may be wrong.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    return connection


def open_tables(
    connection: duckdb.DuckDBPyConnection, build: Build, base: Path, catalog: OpenCatalogTable | None = None
) -> dict[str, RawTable]:
    """The tables of the config. Raises UserError that lists all missing files, tables and columns.

    Args:
        catalog: None: there is no catalog.
    """
    named = [f"{name}.table" for name, source in build.sources.items() if source.table is not None]
    if named and catalog is None:
        raise UserError(
            f"{', '.join(named)}: only --engine spark reads tables of Spark's catalog: use it, or export them to "
            "Parquet and name the files by path"
        )
    tables: dict[str, RawTable] = {}
    problems: list[str] = []
    footers = Footers(connection)
    for name, source in build.sources.items():
        problems += _zone_problems(connection, name, build.zone_of(source))
        try:
            if source.table is None:
                table, found = _open_files(name, source, base, footers)
            else:
                assert catalog is not None
                table, found = catalog(name, source)
        except ValueError as error:
            problems.append(f"{name}.{'path' if source.table is None else 'table'}: {error}")
            continue
        if table is not None:
            tables[name] = table
        problems += found
    if problems:
        raise UserError("the raw tables do not match the config:\n" + "\n".join(f"  {line}" for line in problems))
    return tables


def _open_files(name: str, source: Source, base: Path, footers: Footers) -> tuple[RawTable | None, list[str]]:
    """A table in files, or problems of its columns. Raises UserError if a file cannot be used."""
    files = find(source, base)
    opened = [_open(file, source, footers) for file in files.files]
    problems = [*column_problems(name, source, opened[0].columns, "")]
    if not problems:
        _check_alike(source, opened)
        for one in opened[1:]:
            problems += column_problems(name, source, one.columns, f" in {one.file.path}")
    if problems:
        return None, problems
    return FileTable(name=name, source=source, files=files, scans=tuple(_scans(source, opened))), []


def wanted(source: Source) -> Iterator[tuple[str, str, str]]:
    """(place in the config, column, kind) of every column to read. Kinds: key, time, number, answer, or a field's
    type."""
    columns = vars(vars(source)["columns"])
    kinds = {"timestamp": "time", "valid_from": "time", "watch": "number", "duration": "number", "shown": "flag"}
    for name, column in columns.items():
        if column is not None:
            yield f"columns.{name}", column, kinds.get(name, "answer" if name == "answer" else "key")
    for group in ("features", "outcomes"):
        fields: dict[str, Field] = getattr(source, group, {})
        for name, spec in fields.items():
            yield f"{group}.{name}", spec.column, spec.type


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """One file and its columns."""

    file: RawFile
    columns: dict[str, tuple[str, str]]
    """(SQL, type) of all columns by name, partitions included."""
    width: int
    rows: int
    group_rows: tuple[int, ...]
    """Of a Parquet file."""
    fingerprint: object
    """Equal for files that one relation can read."""


def _open(file: RawFile, source: Source, footers: Footers) -> _Opened:
    """The columns of a file. Raises UserError if it cannot be read, or several columns have a name that is wanted."""
    names = {column for _, column, _ in wanted(source)}
    if file.csv:
        listed = [(name, csv_file.cell(number), "VARCHAR") for number, name in enumerate(csv_file.header(file, source))]
        groups: tuple[int, ...]
        width, rows, groups, fingerprint = len(listed), _estimate(file), (), object()
    else:
        footer = footers.read(file.path)
        listed = [(column.name, column.sql, column.dtype) for column in footer.columns]
        groups, rows, fingerprint = footer.group_rows, sum(footer.group_rows), footer.fingerprint
        width = len(listed)
    found: dict[str, tuple[str, str]] = {}
    for name, sql, dtype in listed:
        if name in names and name in found:
            raise UserError(f"{file.path}: several columns are named {name!r}: rename them")
        found[name] = sql, dtype
    for name, value in file.partition.items():
        if name in names and name in found:
            raise UserError(
                f"{file.path}: column {name!r} is in the file and in the name of its folder: read the table by a glob, "
                "which takes no columns from folders"
            )
        found[name] = "CAST(NULL AS VARCHAR)" if value is None else literal(value), "VARCHAR"
    partition = {name: value for name, value in file.partition.items() if name in names}
    return _Opened(
        file=file,
        columns=found,
        width=width,
        rows=rows,
        group_rows=groups,
        fingerprint=(fingerprint, partition),
    )


def _check_alike(source: Source, opened: list[_Opened]) -> None:
    """Raises UserError if a file lacks a column that the first file has."""
    for one in opened:
        for _, name, _ in wanted(source):
            if name not in one.columns:
                has = ", ".join(one.columns)
                raise UserError(
                    f"{one.file.path} has no column {name!r}, unlike other files of the table; it has: {has}"
                )


def _scans(source: Source, opened: list[_Opened]) -> Iterator[FileScan]:
    """The scans of a table: runs of files that one relation can read."""
    for _, group in groupby(opened, key=lambda one: one.fingerprint):
        run = list(group)
        columns, selected = raw_columns(source, run[0].columns)
        yield FileScan(
            source=source,
            files=tuple(one.file for one in run),
            columns=columns,
            selected=selected,
            width=run[0].width,
            rows=sum(one.rows for one in run),
            group_rows=tuple(one.group_rows for one in run) if not run[0].file.csv else (),
        )


def raw_columns(source: Source, columns: Mapping[str, tuple[str, str]]) -> tuple[dict[str, RawColumn], dict[str, str]]:
    """`Scan.columns` and `Scan.selected` of a table.

    Args:
        columns: (SQL, type) of all columns that the config names, by name.
    """
    names = dict.fromkeys(column for _, column, _ in wanted(source))
    made = {
        name: RawColumn(sql=identifier(f"raw {number}"), dtype=columns[name][1]) for number, name in enumerate(names)
    }
    return made, {name: columns[name][0] for name in names}


def _estimate(file: RawFile) -> int:
    size = Path(file.path).stat().st_size * (COMPRESSION if file.compression is not None else 1)
    return size // CSV_ROW_BYTES


def _zone_problems(connection: duckdb.DuckDBPyConnection, name: str, zone: str) -> Iterator[str]:
    try:
        connection.execute(f"SELECT timezone({literal(zone)}, TIMESTAMP '2000-01-01')").fetchall()
    except duckdb.Error:
        yield f"{name}.time_zone: {zone!r} is no known time zone, such as UTC or Asia/Shanghai"


def column_problems(table: str, source: Source, columns: Mapping[str, tuple[str, str]], where: str) -> Iterator[str]:
    """Columns of the config that a table lacks, or whose types cannot be what the config says.

    Args:
        columns: (SQL, type) of all columns by name.
        where: the file, if the table has several.
    """
    for place, name, kind in wanted(source):
        if name not in columns:
            yield f"{table}.{place}: no column {name!r} in {source.where}; it has: {', '.join(columns)}"
            continue
        dtype = columns[name][1]
        expected = _expected(kind, dtype, source.time_unit)
        if expected is not None:
            remedy = f", expected {expected}"
            if kind == "time" and _is_clock(dtype):
                remedy = f", not a number: set {table}.time_unit = 'timestamp'"
            elif kind == "time" and source.time_unit == "timestamp" and _is_number(dtype):
                remedy = f", not a timestamp: set {table}.time_unit to s, ms, us, ns"
            yield f"{table}.{place}: column {name!r} is {dtype}{where}{remedy}"


def _expected(kind: str, dtype: str, unit: str) -> str | None:
    """What a column of a kind may be; None: it is that."""
    item = re.sub(r"\[\d*\]$", "", dtype)
    listed = item != dtype
    text, number = dtype in (*TEXTS, "BLOB", '"NULL"'), _is_number(dtype)
    match kind:
        case "ids":
            right = text or (listed and (_is_whole(item) or item in (*TEXTS, "BLOB") or item in FLOATS))
            return None if right else "a list of integers, or text"
        case "texts":
            return None if text or (listed and item in (*TEXTS, "BLOB", "UUID")) else "a list of texts, or text"
        case "floats":
            right = text or (listed and (_is_number(item) or item in TEXTS))
            return None if right else "a list of numbers, or text"
        case "weighted_ids":
            return None if text or WEIGHTED.fullmatch(dtype) else "a list of structs of id and weight, or text"
        case _ if NESTED.fullmatch(dtype):
            return "a single value"
        case "time" if unit == "timestamp":
            return None if text or _is_clock(dtype) else "a timestamp, or text"
        case "time" | "number" | "float":
            return None if text or number or (kind == "float" and dtype == "BOOLEAN") else "a number, or text"
        case "id":
            return None if text or number else "an integer, or text; type = 'flag' reads truth values"
        case "flag":
            return None if text or number or dtype == "BOOLEAN" else "0 and 1, a truth value, or text"
        case _:
            # Keys and answers, texts, ids by declaration.
            return None if text or number or dtype in ("UUID", "BOOLEAN") else "text, or a number"


def _is_number(dtype: str) -> bool:
    return _is_whole(dtype) or dtype in FLOATS


def _is_whole(dtype: str) -> bool:
    """Integers and decimals."""
    return dtype in INTEGERS or dtype in WIDE_INTEGERS or dtype.startswith("DECIMAL(")


def _is_clock(dtype: str) -> bool:
    return dtype.startswith(("TIMESTAMP", "DATE")) or dtype == UTC_TIMESTAMP
