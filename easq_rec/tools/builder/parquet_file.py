"""Parquet files as the engine sees them: names and types of their columns, by their footers.

Some types tell the engine less than the file says. They have names of their own here, which `cells` knows or refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.errors import UserError
from easq_rec.tools.builder.sql import file_literal, identifier

UTC_TIMESTAMP = "TIMESTAMP IN UTC"
"""Of INT96, which writers fill with UTC; the engine shows a timestamp without a zone."""
HALF = "HALF FLOAT"
"""The engine shows FLOAT."""


@dataclass(frozen=True, kw_only=True)
class ParquetColumn:
    """A column of a file."""

    name: str
    sql: str
    """The engine's name, quoted: it renames a column whose name differs from another's in case only."""
    dtype: str
    """SQL type, or one of the names above."""


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a footer says."""

    group_rows: tuple[int, ...]
    """Rows of each row group."""
    columns: tuple[ParquetColumn, ...]
    """Top-level columns in the file's order."""
    fingerprint: str
    """Equal for files that one relation can read."""


class Footers:
    """Reads footers, and asks the engine once for each different schema."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._known: dict[str, tuple[ParquetColumn, ...]] = {}

    def read(self, path: str) -> Footer:
        """The footer of a file. Raises UserError that names the file if it cannot be read."""
        try:
            # A name such as s3:x is no URL here, so pyarrow gets the file, not its name.
            with pa.OSFile(path) as file:
                metadata = pq.read_metadata(file)
                schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
        leaves = [metadata.schema.column(index) for index in range(len(metadata.schema))]
        fingerprint = repr([[(leaf.path, leaf.physical_type, str(leaf.logical_type)) for leaf in leaves], str(schema)])
        if fingerprint not in self._known:
            self._known[fingerprint] = self._columns(path, schema, leaves)
        groups = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        return Footer(group_rows=groups, columns=self._known[fingerprint], fingerprint=fingerprint)

    def _columns(self, path: str, schema: pa.Schema, leaves: list[pq.ColumnSchema]) -> tuple[ParquetColumn, ...]:
        try:
            rows = self._connection.execute(f"DESCRIBE SELECT * FROM {relation([path])}").fetchall()
        except duckdb.Error as error:
            raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
        if len(rows) != len(schema):
            raise UserError(f"{path}: its columns cannot be told apart: {schema.names}")
        physical = {leaf.path: leaf.physical_type for leaf in leaves}
        return tuple(
            ParquetColumn(
                name=field.name,
                sql=identifier(row[0]),
                dtype=_dtype(field.type, row[1], physical.get(field.name)),
            )
            for field, row in zip(schema, rows, strict=True)
        )


def relation(paths: list[str]) -> str:
    """SQL of the rows of files with equal schemas, in this order."""
    names = ", ".join(map(file_literal, paths))
    # Parquet statistics ignore NaN: without can_have_nan, the engine concludes from them that there is none.
    return f"read_parquet([{names}], can_have_nan=true, hive_partitioning=false)"


def damage(paths: list[str]) -> str:
    """The place and the kind of the first damage in some files, read one row group at a time; empty: there is none."""
    for path in paths:
        index = 0
        try:
            with pa.OSFile(path) as file, pq.ParquetFile(file) as parquet:
                for index in range(parquet.num_row_groups):
                    parquet.read_row_group(index)
        except (pa.ArrowException, OSError) as error:
            return f"{path}, row group {index}: cannot be read: {str(error).splitlines()[0]}"
    return ""


def _dtype(arrow: pa.DataType, sql: str, physical: str | None) -> str:
    """The SQL type, or what the file says beyond it."""
    if physical == "INT96":
        return UTC_TIMESTAMP
    if pa.types.is_float16(arrow):
        return HALF
    if pa.types.is_duration(arrow):
        return f"DURATION IN {arrow.unit}"
    if pa.types.is_decimal(arrow) and sql == "DOUBLE":
        return str(arrow).upper()
    return sql
