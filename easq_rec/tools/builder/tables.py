"""The raw tables in the SQL engine: files, columns, types, and the check that the config's columns exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

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
NESTED = re.compile(r"(.*\]|(STRUCT|MAP|UNION|VARIANT).*)")


@dataclass(frozen=True, kw_only=True)
class RawColumn:
    """A column of a scan's relation."""

    sql: str
    """Its name in the relation, quoted."""
    dtype: str
    """SQL type, or a name of `parquet_file`; VARCHAR in CSV."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Consecutive files of a raw table with the same columns, read in order by one SQL relation."""

    source: Source
    files: tuple[RawFile, ...]
    """One file if it is CSV."""
    columns: dict[str, RawColumn]
    """The columns that the config names, by their names in the log."""
    selected: dict[str, str]
    """SQL over the files' own columns, by the same names."""
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
    def relation(self, temp: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(SQL of the rows, CSV lines that are not rows); temporary files are in `temp` until the block ends.

        Raises UserError if a file cannot be read.
        """
        if not self.csv:
            files = parquet_file.relation([file.path for file in self.files])
            yield self._over(files, f"filename AS {FILE}", f"file_row_number AS {ROW}"), ()
            return
        (file,) = self.files
        with csv_file.prepared(file, self.source, temp) as ready:
            rows = csv_file.relation(ready, self.width, self.source)
            yield self._over(rows), ready.rejected

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """SQL of a row's place, and the columns of the relation that it needs."""
        if self.csv:
            return literal(self.files[0].path), ()
        return f"{FILE} || ', row ' || {ROW}", (FILE, ROW)

    def _over(self, relation: str, *also: str) -> str:
        selected = [f"{expression} AS {self.columns[name].sql}" for name, expression in self.selected.items()]
        # The engine reads only the row groups that have such rows.
        rows = (
            ""
            if self.between is None
            else " WHERE file_row_number >= {} AND file_row_number < {}".format(*self.between)
        )
        return f"(SELECT {', '.join([*selected, *also])} FROM {relation}{rows})"


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """One raw table."""

    name: str
    source: Source
    files: RawFiles
    scans: tuple[Scan, ...] = field(repr=False)


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
    return duckdb.connect(":memory:", config=settings)


def open_tables(connection: duckdb.DuckDBPyConnection, build: Build, base: Path) -> dict[str, RawTable]:
    """The tables of the config. Raises UserError that lists all missing files and columns."""
    tables: dict[str, RawTable] = {}
    problems: list[str] = []
    footers = Footers(connection)
    for name, source in build.sources.items():
        problems += _zone_problems(connection, name, build.zone_of(source))
        try:
            files = find(source, base)
            opened = [_open(file, source, footers) for file in files.files]
            found = [*_column_problems(name, source, opened[0], "")]
            if not found:
                _check_alike(source, opened)
                for one in opened[1:]:
                    found += _column_problems(name, source, one, f" in {one.file.path}")
        except ValueError as error:
            problems.append(f"{name}.path: {error}")
            continue
        if not found:
            tables[name] = RawTable(name=name, source=source, files=files, scans=tuple(_scans(source, opened)))
        problems += found
    if problems:
        raise UserError("the raw tables do not match the config:\n" + "\n".join(f"  {line}" for line in problems))
    return tables


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


def _scans(source: Source, opened: list[_Opened]) -> Iterator[Scan]:
    """The scans of a table: runs of files that one relation can read."""
    names = dict.fromkeys(column for _, column, _ in wanted(source))
    for _, group in groupby(opened, key=lambda one: one.fingerprint):
        run = list(group)
        columns = run[0].columns
        yield Scan(
            source=source,
            files=tuple(one.file for one in run),
            columns={
                name: RawColumn(sql=identifier(f"raw {number}"), dtype=columns[name][1])
                for number, name in enumerate(names)
            },
            selected={name: columns[name][0] for name in names},
            width=run[0].width,
            rows=sum(one.rows for one in run),
            group_rows=tuple(one.group_rows for one in run) if not run[0].file.csv else (),
        )


def _estimate(file: RawFile) -> int:
    size = Path(file.path).stat().st_size * (COMPRESSION if file.compression is not None else 1)
    return size // CSV_ROW_BYTES


def _zone_problems(connection: duckdb.DuckDBPyConnection, name: str, zone: str) -> Iterator[str]:
    try:
        connection.execute(f"SELECT timezone({literal(zone)}, TIMESTAMP '2000-01-01')").fetchall()
    except duckdb.Error:
        yield f"{name}.time_zone: {zone!r} is no known time zone, such as UTC or Asia/Shanghai"


def _column_problems(table: str, source: Source, opened: _Opened, where: str) -> Iterator[str]:
    """Columns of the config that a file lacks, or whose types cannot be what the config says."""
    for place, name, kind in wanted(source):
        if name not in opened.columns:
            has = ", ".join(opened.columns)
            yield f"{table}.{place}: no column {name!r} in {source.path!r}; it has: {has}"
            continue
        dtype = opened.columns[name][1]
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
