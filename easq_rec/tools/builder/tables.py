"""The raw tables in the SQL engine: files, columns, types, and the check that the config's columns exist."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Build, Engine, Field, Source

SUFFIXES = {"parquet": (".parquet", ".parq", ".pq"), "csv": (".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".txt")}
WEIGHTED = re.compile(r'STRUCT\((?=.*\bid"? \w)(?=.*\bweight"? \w).*\)\[\]')
"""SQL types of lists of structs with an id and a weight."""
TABLES = ("impressions", "answers", "users", "videos")


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """One raw table."""

    name: str
    source: Source
    files: tuple[str, ...]
    csv: bool
    hive: bool
    types: dict[str, str]
    """Column: SQL type."""

    def scans(self) -> list[str]:
        """SQL relations with the table's rows in order. Each CSV file is a separate relation, with its column order."""
        if self.csv:
            return [_csv(file, self.source, hive=self.hive) for file in self.files]
        return [_parquet(self.files, hive=self.hive)]


def connect(engine: Engine, temp: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory engine with limited resources and without network access."""
    settings: dict[str, Any] = {
        "memory_limit": f"{engine.memory_mb}MB",
        "threads": engine.threads,
        "temp_directory": str(temp),
        # The row order decides between equal answers and between duplicate impressions.
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
    }
    return duckdb.connect(":memory:", config=settings)


def open_tables(connection: duckdb.DuckDBPyConnection, build: Build, base: Path) -> dict[str, RawTable]:
    """The tables of the config. Raises UserError that lists all missing files and columns."""
    tables: dict[str, RawTable] = {}
    problems: list[str] = []
    for name in TABLES:
        source: Source | None = getattr(build, name)
        if source is None:
            continue
        try:
            table = _open(connection, name, source, base)
        except ValueError as error:
            problems.append(f"{name}.path: {error}")
            continue
        problems += _column_problems(table)
        tables[name] = table
    if problems:
        raise UserError("the raw tables do not match the config:\n" + "\n".join(f"  {line}" for line in problems))
    return tables


def wanted(source: Source) -> Iterator[tuple[str, str, str]]:
    """(place in the config, column, kind) of every column to read. Kinds: key, time, number, text, or a field's
    type."""
    columns = vars(vars(source)["columns"])
    kinds = {"timestamp": "time", "valid_from": "time", "watch": "number", "duration": "number", "shown": "flag"}
    for name, column in columns.items():
        if column is not None:
            yield f"columns.{name}", column, kinds.get(name, "text" if name == "answer" else "key")
    for group in ("features", "outcomes"):
        fields: dict[str, Field] = getattr(source, group, {})
        for name, field in fields.items():
            yield f"{group}.{name}", field.column, field.type


def _open(connection: duckdb.DuckDBPyConnection, name: str, source: Source, base: Path) -> RawTable:
    files, csv, hive = _files(source, base)
    types: dict[str, str] = {}
    scans = [_csv(file, source, hive=hive) for file in files] if csv else [_parquet(files, hive=hive)]
    for file, scan in zip(files, scans, strict=False):
        try:
            rows = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
        except duckdb.Error as error:
            raise UserError(f"{file if csv else source.path}: {str(error).splitlines()[0]}") from error
        found = {row[0]: row[1] for row in rows}
        missing = [column for _, column, _ in wanted(source) if types and column not in found and column in types]
        if missing:
            raise UserError(f"{file} has no column {missing[0]!r}, unlike other files of the table: {list(found)}")
        types = types or found
    return RawTable(name=name, source=source, files=files, csv=csv, hive=hive, types=types)


def _files(source: Source, base: Path) -> tuple[tuple[str, ...], bool, bool]:
    """(files in order of their names, whether they are CSV, whether folders may be hive partitions)."""
    pattern = os.path.join(base, os.path.expanduser(source.path))
    known = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
    hive = os.path.isdir(pattern)
    if hive:
        suffixes = SUFFIXES[source.format] if source.format != "auto" else tuple(known)
        found = [str(p) for p in Path(pattern).rglob("*") if p.name.endswith(suffixes) and _visible(p, Path(pattern))]
    else:
        found = glob.glob(pattern, recursive=True)
    files = sorted(file for file in found if os.path.isfile(file))
    if not files:
        raise UserError(f"{source.path!r}: no such file: a file, a glob, or a directory with Parquet or CSV files")
    if source.format != "auto":
        return tuple(files), source.format == "csv", hive
    kinds = {next((kind for suffix, kind in known.items() if file.endswith(suffix)), "other") for file in files}
    if len(kinds) > 1 or "other" in kinds:
        raise UserError(f"{source.path!r}: the file names do not show the format: set format to 'parquet' or 'csv'")
    return tuple(files), kinds == {"csv"}, hive


def _visible(file: Path, directory: Path) -> bool:
    return not any(part.startswith(("_", ".")) for part in file.relative_to(directory).parts)


def _parquet(files: tuple[str, ...], *, hive: bool) -> str:
    names = ", ".join(literal(file) for file in files)
    # Parquet statistics ignore NaN: without can_have_nan, the engine concludes from them that there is none.
    options = f"union_by_name=true, can_have_nan=true, hive_partitioning={str(hive).lower()}"
    return f"read_parquet([{names}], {options})"


def _csv(file: str, source: Source, *, hive: bool) -> str:
    # All text: a cell that does not parse makes one bad row instead of ending the scan. Rows with too few or too many
    # cells go to the engine's table of rejects.
    return (
        f"read_csv({literal(file)}, all_varchar=true, header=true, delim={literal(source.delimiter)}, "
        f"hive_partitioning={str(hive).lower()}, store_rejects=true, rejects_limit=0)"
    )


def _column_problems(table: RawTable) -> Iterator[str]:
    unit = table.source.time_unit
    for place, column, kind in wanted(table.source):
        where = f"{table.name}.{place}"
        if column not in table.types:
            yield f"{where}: no column {column!r} in {table.source.path!r}; it has: {', '.join(table.types)}"
            continue
        dtype = table.types[column]
        nested = dtype.endswith("]") or dtype.startswith(("STRUCT", "MAP", "UNION"))
        if kind == "ids":
            if dtype != "VARCHAR" and not (dtype.endswith("[]") and "STRUCT" not in dtype):
                yield f"{where}: column {column!r} is {dtype}, expected a list of integers, or text"
        elif kind == "floats":
            if dtype != "VARCHAR" and not (dtype.endswith("]") and "STRUCT" not in dtype):
                yield f"{where}: column {column!r} is {dtype}, expected a list of numbers, or text"
        elif kind == "weighted_ids":
            if dtype != "VARCHAR" and not WEIGHTED.fullmatch(dtype):
                yield f"{where}: column {column!r} is {dtype}, expected a list of structs of id and weight, or text"
        elif nested:
            yield f"{where}: column {column!r} is {dtype}, expected a single value"
        elif kind == "time":
            clock = dtype.startswith(("TIMESTAMP", "DATE"))
            if clock and unit != "timestamp":
                yield f"{where}: column {column!r} is {dtype}, not a number: set {table.name}.time_unit = 'timestamp'"
            elif not clock and dtype != "VARCHAR" and unit == "timestamp":
                yield f"{where}: column {column!r} is {dtype}, not a timestamp: set {table.name}.time_unit to s, ms, us"


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """An SQL name."""
    return '"' + name.replace('"', '""') + '"'
