"""A dataset of the data contract as DuckDB relations: one for its rows, and one for the entries of each list."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa

from easq_rec.data import files
from easq_rec.data.dataset import TIME, first_schema
from easq_rec.data.histories import HistoryFolder, refers
from easq_rec.data.kinds import is_list
from easq_rec.data.layout import leaf_types
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Engine
from easq_rec.tools.builder.sql import file_literal, identifier, literal
from easq_rec.tools.builder.tables import connect
from easq_rec.tools.inspect.column import LISTS, Kind, kind_of
from easq_rec.tools.inspect.parquet import find_damage, open_parquet

FILE, ROW_GROUP, ROW = '"file number"', '"row group number"', '"row number in file"'
"""Columns of a dataset's view that say where a row lies. Spaces keep them distinct from the columns of the data."""
REQUEST_MS = '"time of the request"'
"""Column of every relation."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """The rows of a dataset, or the entries of one of its lists. The values are SQL expressions over `sql`."""

    path: str
    """Of the list; empty for the rows of the dataset."""
    sql: str
    columns: dict[str, str] = field(default_factory=dict)
    """By path, columns of a kind that is inspected."""
    lists: dict[str, str] = field(default_factory=dict)
    """By path, lists of structs and of numbers."""
    structs: dict[str, str] = field(default_factory=dict)
    """By path, structs; `candidates[]` is an entry of `candidates`."""


class SqlDataset:
    """The files of a dataset behind a DuckDB view.

    Args:
        name: of the dataset; the view has it too.
        location: folder with Parquet files at any depth.

    Raises:
        UserError: no files, an unreadable file, files whose columns differ, or no integer column timestamp_ms.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str, location: files.Location) -> None:
        self.location = location
        self.view = identifier(f"dataset {name}")
        self.files = [files.join(location, file) for file in files.parquet_files(location)]
        self.bytes = sum(files.identity(file)[1] for file in self.files)
        self.group_rows: list[list[int]] = []
        """Rows of every row group, by file."""
        self.types: dict[str, set[str]] = {}
        """Arrow types of every column in the files."""
        self.histories = HistoryFolder(location) if refers(first_schema(location)) else None
        """None: the requests hold their histories."""
        self.schema = self._read_footers()
        """Of the first file."""
        self.kinds: dict[str, Kind] = {path: kind_of(dtype) for path, dtype in leaf_types(self.schema)}
        if self.kinds.get(TIME) != "integer":
            found = f"it is {', '.join(self.types[TIME])}" if TIME in self.types else f"there is none: {[*self.kinds]}"
            raise UserError(f"{files.display_name(self.files[0])}: a dataset needs an integer column {TIME}; {found}")
        self._connection = connection
        rows = (
            f"SELECT *, {identifier(TIME)} AS {REQUEST_MS}, file_index AS {FILE}, "
            f"file_row_group_number AS {ROW_GROUP}, file_row_number AS {ROW} FROM {_parquet(self.files)}"
        )
        if self.histories is not None:
            rows = _with_histories(rows, self.histories)
        self.ask(f"CREATE TEMP VIEW {self.view} AS {rows}")
        self.relations = _relations(self.schema, self.view)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs a query. Raises UserError that names the place of the error."""
        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.OutOfMemoryException as error:
            remedy = "give temporary files more space (TMPDIR names their directory)"
            raise UserError(f"{files.display_name(self.location)}: {_first_line(error)}: {remedy}") from error
        except duckdb.Error as error:
            find_damage(self.files)
            raise UserError(
                f"{files.display_name(self.location)}: DuckDB cannot read it: {_first_line(error)}"
            ) from error

    def select(self, expressions: Mapping[str, str], relation: str) -> dict[str, Any]:
        """Values of aggregates over a relation, by the same keys."""
        (row,) = self.ask(f"SELECT {', '.join(expressions.values())} FROM {relation}")
        return dict(zip(expressions, row, strict=True))

    def relation(self, path: str) -> Relation | None:
        """The relation of a list; None: there is no such list of structs or numbers."""
        return next((relation for relation in self.relations if relation.path == path), None)

    def place(self, file: int, row_group: int, row: int | None = None) -> str:
        """A place as in the reader's errors, which count rows within the row group. `row` counts within the file."""
        where = f"{files.display_name(self.files[file])}, row group {row_group}"
        return where if row is None else f"{where}, row {row - sum(self.group_rows[file][:row_group])}"

    def _read_footers(self) -> pa.Schema:
        """Fills `group_rows` and `types`; returns the first file's schema. Integers may differ in width."""
        first: pa.Schema | None = None
        for file in self.files:
            with open_parquet(file) as parquet:
                schema, metadata = parquet.schema_arrow, parquet.metadata
                if self.histories is not None and refers(schema):
                    schema = self.histories.resolved(schema)
                self.group_rows.append([metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)])
            here = dict(leaf_types(schema))
            for path, dtype in here.items():
                self.types.setdefault(path, set()).add(str(dtype))
            _check_names(file, schema)
            if first is None:
                first = schema
            there = dict(leaf_types(first))
            differences = [
                f"{path} is {here.get(path, 'missing')}, {there.get(path, 'missing')} there"
                for path in sorted(set(here) | set(there))
                if path not in here or path not in there or kind_of(here[path]) != kind_of(there[path])
            ]
            if differences:
                where = (
                    f"{files.display_name(file)}: its columns differ from those of {files.display_name(self.files[0])}"
                )
                raise UserError(f"{where}: {'; '.join(differences)}")
        assert first is not None
        return first


def count_ids(datasets: Collection[SqlDataset], paths: Collection[str]) -> int:
    """Distinct ids in some columns of all datasets together, exact. DuckDB writes to disk what exceeds its memory."""
    columns = [
        f"SELECT ({relation.columns[path]})::HUGEINT AS id FROM {relation.sql}"
        for dataset in datasets
        for relation in dataset.relations
        for path in relation.columns.keys() & paths
    ]
    rows = next(iter(datasets)).ask(f"SELECT count(DISTINCT id) FROM ({' UNION ALL '.join(columns)})")
    return int(rows[0][0])


def struct(fields: Mapping[str, str]) -> str:
    """SQL of a struct, which arrives in Python as a dict."""
    return "{" + ", ".join(f"{literal(name)}: {expression}" for name, expression in fields.items()) + "}"


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, bounded as for `data build`; what exceeds the bound goes to temporary files."""
    with tempfile.TemporaryDirectory(prefix="easq-rec-inspect-") as temp, connect(Engine(), Path(temp)) as connection:
        connection.execute("SET parquet_metadata_cache = true; SET enable_progress_bar = false")
        connection.register_filesystem(_RemoteFiles())
        yield connection


def _relations(schema: pa.Schema, view: str) -> list[Relation]:
    """The relations of a dataset, the rows first. Structs are entered; every list has a relation."""
    found = [Relation(path="", sql=view)]

    def walk(relation: Relation, path: str, expression: str, dtype: pa.DataType) -> None:
        kind = kind_of(dtype)
        if pa.types.is_struct(dtype):
            relation.structs[path] = expression
            for child in dtype:
                inside = f"struct_extract({expression}, {literal(child.name)})"
                walk(relation, f"{path.removesuffix('[]')}.{child.name}", inside, child.type)
        elif kind in LISTS or (is_list(dtype) and pa.types.is_struct(dtype.value_type)):
            relation.lists[path] = expression
            sql = f"(SELECT {REQUEST_MS}, unnest({expression}) AS entry FROM {relation.sql})"
            found.append(Relation(path=path, sql=sql))
            walk(found[-1], path if kind in LISTS else f"{path}[]", "entry", dtype.value_type)
        elif kind != "other":
            relation.columns[path] = expression

    for column in schema:
        walk(found[0], column.name, identifier(column.name), column.type)
    return found


def _parquet(names: Collection[str]) -> str:
    """SQL of a scan of files."""
    listed = ", ".join(map(_queried, names))
    # Parquet statistics ignore NaN: without can_have_nan, DuckDB concludes from them that there is none.
    return f"read_parquet([{listed}], union_by_name=true, can_have_nan=true, hive_partitioning=false)"


def _with_histories(requests: str, histories: HistoryFolder) -> str:
    """SQL of requests with histories in place of references."""
    parts = [str(part) for part in histories.parts]
    entries = "lists.history[requests.history.begin + 1 : requests.history.begin + requests.history.length]"
    return (
        f"SELECT requests.* REPLACE ({entries} AS history) FROM ({requests}) AS requests LEFT JOIN ("
        f"SELECT [{', '.join(parts)}][file_index::BIGINT + 1] AS part, file_row_number AS row, history "
        f"FROM {_parquet(histories.locations)}) AS lists "
        "ON requests.history.part = lists.part AND requests.history.row = lists.row"
    )


def _check_names(file: str, schema: pa.Schema) -> None:
    """Raises UserError for columns that SQL, or the reader, cannot tell apart."""
    lower: dict[str, str] = {}
    for path, _ in leaf_types(schema):
        other = lower.get(path.lower())
        if other == path:
            problem = f"several columns are named {path} (a dot may be part of a name)"
        else:
            problem = f"columns {other} and {path} differ only in upper and lower case"
        if other is not None:
            raise UserError(f"{files.display_name(file)}: {problem}: rename one")
        lower[path.lower()] = path


class _RemoteFiles(fsspec.AbstractFileSystem):
    """Files of URLs, opened for DuckDB as the reader opens them.

    The path is the URL in hexadecimal, since DuckDB would take the `?` before the options of a URL for a wildcard.
    """

    protocol = "inspected"

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": files.identity(_location(path))[1], "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(files.identity(_location(path))[0] / 1e9, UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> _SharedFile:
        assert mode == "rb", "inspect only reads"
        return _SharedFile(files.open_file(_location(path)))


class _SharedFile:
    """A file with a position per thread: DuckDB's threads share it, and each calls `seek` before `read`."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._thread = threading.local()
        self.close = file.close

    def seek(self, position: int) -> None:
        self._thread.position = position

    def read(self, size: int) -> bytes:
        content: bytes = self._file.read_at(size, self._thread.position)
        self._thread.position += len(content)
        return content


def _queried(file: str) -> str:
    """A file in SQL."""
    return literal(f"inspected://{file.encode().hex()}") if files.is_remote(file) else file_literal(file)


def _location(path: str) -> str:
    return bytes.fromhex(path.rpartition("/")[2]).decode()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
