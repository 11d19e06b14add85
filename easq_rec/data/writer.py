"""Writes Parquet that is fast to read: full row groups, encodings that decode fast, and non-null fields.

A shuffle window is a few row groups, so a row group has a few thousand requests. Numbers of four bytes and more are
split into byte streams before zstd compresses them (BYTE_STREAM_SPLIT): ids of large spaces then take fewer bytes than
in a dictionary and are faster to read (`benchmarks/data.py` measures both). For a non-null field Arrow reads only
values.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec.errors import UserError

ROW_GROUP = 2_048
"""Requests."""
PART_ROW_GROUPS = 8
"""Row groups per file."""


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Opens a writer of one file, with the encoding of each column."""
    encodings, dictionaries = {}, []
    for name, dtype in parquet_leaves(schema):
        if (pa.types.is_integer(dtype) or pa.types.is_floating(dtype)) and dtype.bit_width >= 32:
            encodings[name] = "BYTE_STREAM_SPLIT"
        elif not pa.types.is_boolean(dtype):
            dictionaries.append(name)
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=dictionaries or False, column_encoding=encodings or None
    )


def check_unused(out: Path) -> None:
    """Raises UserError if an output exists and is not an empty directory."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: already exists: delete it or choose another directory")


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A temporary directory that is renamed to `out` at the end, or removed if the block raises."""
    # A link cannot be replaced by a rename, the directory that it leads to can.
    out = Path(os.path.realpath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, out)
    finally:
        # After the rename this name no longer exists.
        shutil.rmtree(temporary, ignore_errors=True)


def parquet_leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """(Parquet name, type) of every leaf column."""

    def walk(prefix: str, dtype: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
        if pa.types.is_struct(dtype):
            for field in dtype:
                yield from walk(f"{prefix}.{field.name}", field.type)
        elif pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
            yield from walk(f"{prefix}.list.element", dtype.value_type)
        else:
            yield prefix, dtype

    for field in schema:
        yield from walk(field.name, field.type)


def required(schema: pa.Schema, optional: Collection[str]) -> pa.Schema:
    """The same schema, with only the `optional` fields nullable; they are named as in `nullable`."""

    def strict(path: str, field: pa.Field) -> pa.Field:
        dtype = field.type
        if pa.types.is_struct(dtype):
            dtype = pa.struct([strict(f"{path}.{child.name}", child) for child in dtype])
        elif pa.types.is_list(dtype):
            dtype = pa.list_(strict(f"{path}.list.element", dtype.value_field))
        return pa.field(field.name, dtype, nullable=path in optional)

    return pa.schema([strict(field.name, field) for field in schema])


def nullable(table: pa.Table) -> set[str]:
    """Parquet paths of the fields that contain a null: `candidates.list.element.answer`."""

    def walk(path: str, array: pa.Array) -> Iterator[str]:
        if array.null_count:
            yield path
        if pa.types.is_struct(array.type):
            for index, child in enumerate(array.type):
                yield from walk(f"{path}.{child.name}", array.field(index))
        elif pa.types.is_list(array.type):
            yield from walk(f"{path}.list.element", array.flatten())

    return {path for name in table.column_names for chunk in table[name].chunks for path in walk(name, chunk)}


class PartWriter:
    """Writes tables to `part-*.parquet` in full row groups, buffering less than one.

    Args:
        folder: is created.
    """

    def __init__(self, folder: Path, *, row_group: int = ROW_GROUP, part_row_groups: int = PART_ROW_GROUPS) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._row_group = row_group
        self._part_row_groups = part_row_groups
        self.rows = 0
        """Rows written or buffered."""
        self._held: list[pa.Table] = []
        self._waiting = 0
        self._groups = 0
        self._parts = 0
        self._nullable: set[str] = set()
        self._part: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._held.append(table)
        self.rows += table.num_rows
        self._waiting += table.num_rows
        if self._waiting < self._row_group:
            return
        whole = pa.concat_tables(self._held).combine_chunks()
        begin = 0
        while self._waiting >= self._row_group:
            self._write_group(whole.slice(begin, self._row_group))
            begin += self._row_group
            self._waiting -= self._row_group
        self._held = [whole.slice(begin)]

    def close(self) -> None:
        """Writes the buffered rows; a dataset without rows gets one file with only its schema."""
        if self._waiting or not self.rows:
            self._write_group(pa.concat_tables(self._held).combine_chunks())
        self._close_part()

    def _write_group(self, table: pa.Table) -> None:
        found = nullable(table)
        # The first null of a field needs another schema, and so another file.
        if self._part is None or self._groups == self._part_row_groups or not found <= self._nullable:
            self._close_part()
            self._nullable |= found
            path = self._folder / f"part-{self._parts:05d}.parquet"
            self._part = open_writer(path, required(table.schema, self._nullable))
            self._parts += 1
        self._part.write_table(table.cast(self._part.schema), row_group_size=self._row_group)
        self._groups += 1

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part, self._groups = None, 0
