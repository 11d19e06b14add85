"""One pass over a dataset: every row group is read once and forgotten, so memory is bounded by the largest of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.data import files
from easq_rec.data.columns import Array
from easq_rec.data.dataset import TIME, parquet_files
from easq_rec.data.layout import leaf_indices, leaf_types
from easq_rec.errors import UserError
from easq_rec.tools.inspect.column import ColumnStats, kind_of
from easq_rec.tools.inspect.links import Links
from easq_rec.tools.inspect.sketch import Lengths, Spans
from easq_rec.tools.inspect.stages import PATHS, Stages

LISTS = ("history", "candidates")


@dataclass(kw_only=True)
class Scan:
    """All that is found in one dataset."""

    directory: files.Location
    files: list[str]
    bytes: int = 0
    rows: int = 0
    group_rows: list[int] = field(default_factory=list)
    """Rows of every row group."""
    columns: dict[str, ColumnStats] = field(default_factory=dict)
    """By path."""
    lengths: dict[str, Lengths] = field(default_factory=lambda: {name: Lengths() for name in LISTS})
    """Of history and candidates."""
    null_structs: dict[str, int] = field(default_factory=dict)
    """Nulls where a struct, a list or an entry of a list should be, by column; where there are any."""
    spans: Spans = field(default_factory=Spans)
    """Requests over time."""
    unsorted_rows: int = 0
    """Rows that are earlier than the row in front of them in the row group."""
    unsorted_groups: int = 0
    """Row groups that begin before the row group in front of them, in the order of the files' names."""
    stages: Stages = field(default_factory=Stages)
    links: Links = field(default_factory=Links)
    """Of the candidates' numbers with their columns of 0 and 1."""

    @property
    def row_groups(self) -> int:
        return len(self.group_rows)

    @property
    def candidates(self) -> int:
        counts = self.lengths["candidates"].counts
        return int(np.arange(len(counts)) @ counts)


def scan(directory: files.Location, *, answers: AnswerScale = THREE_ANSWERS, progress: bool = False) -> Scan:
    """Reads every row group of a dataset once.

    Raises:
        UserError: no files, an unreadable one, files whose columns differ, or no integer column timestamp_ms.
    """
    paths = parquet_files(directory)
    schema = _common_schema(paths)
    found = Scan(directory=directory, files=paths, stages=Stages(scale=answers))
    found.columns = {
        path: ColumnStats(path=path, kind=kind_of(dtype), types={str(dtype)}) for path, dtype in leaf_types(schema)
    }
    time = found.columns.get(TIME)
    if time is None or time.kind != "integer":
        what = f"there is none among {sorted(found.columns)}" if time is None else f"it is {', '.join(time.types)}"
        raise UserError(f"{files.shown(paths[0])}: a dataset needs an integer column {TIME}; {what}")
    before: int | None = None
    # None: no bar where there is no terminal.
    with tqdm(total=len(paths), unit="file", desc=files.shown(directory), disable=None if progress else True) as bar:
        for file in paths:
            found.bytes += files.identity(file)[1]
            for table in _row_groups(file, set(found.columns)):
                first = _add(found, table)
                if first is not None:
                    found.unsorted_groups += before is not None and first < before
                    before = first
            bar.update()
    return found


def _add(found: Scan, table: pa.Table) -> int | None:
    """Takes in a row group; returns its first point in time."""
    found.rows += len(table)
    found.group_rows.append(len(table))
    kept: dict[str, pa.Array] = {}
    lengths: dict[str, Array] = {}
    numbers: dict[str, Array] = {}
    outcomes: dict[str, Array] = {}
    for path, array in _leaves(found, table, lengths):
        column = found.columns[path]
        column.add(array)
        if column.group == "candidates" and not array.null_count:
            if column.binary:
                outcomes[path] = array.to_numpy(zero_copy_only=False)
            elif column.kind == "float" or column.quantity:
                numbers[path] = array.to_numpy(zero_copy_only=False)
        if path in (TIME, *PATHS) and column.kind in ("integer", "float", "boolean"):
            kept[path] = array
    times = kept.pop(TIME)
    owned = None
    if not times.null_count and len(lengths.get("candidates", ())) == len(table):
        owned = np.repeat(times.to_numpy(), lengths["candidates"])
    found.stages.add(kept, owned)
    found.links.add(numbers, outcomes)
    known = times.drop_null().to_numpy()
    if not len(known):
        return None
    found.spans.add(known)
    found.unsorted_rows += int(np.count_nonzero(known[1:] < known[:-1]))
    return int(known.min())


def _leaves(found: Scan, table: pa.Table, lengths: dict[str, Array]) -> Iterator[tuple[str, pa.Array]]:
    """(path, flat array) of every column; puts the lengths of the contract's lists, null lists left out, aside."""

    def walk(path: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
        if path in found.columns:
            yield path, array
            return
        if array.null_count:
            found.null_structs[path] = found.null_structs.get(path, 0) + array.null_count
        if not pa.types.is_struct(array.type):
            array = array.drop_null()
            of = np.diff(array.offsets.to_numpy()) if len(array) else np.zeros(0, np.int64)
            if path in found.lengths:
                found.lengths[path].add(of)
                lengths[path] = of
            array = array.flatten()
            if array.null_count:
                found.null_structs[f"{path}[]"] = found.null_structs.get(f"{path}[]", 0) + array.null_count
        # Unlike field(), flatten() carries the struct's own nulls over to its fields.
        for child, values in zip(array.type, array.flatten(), strict=True):
            yield from walk(f"{path}.{child.name}", values)

    for name in table.schema.names:
        column = table.column(name)
        yield from walk(name, column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())


@contextmanager
def open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """Raises UserError that names the file where it is unreadable, also within the block."""
    try:
        with pq.ParquetFile(files.open_file(file), pre_buffer=False) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{files.shown(file)}: not a readable Parquet file: {error}") from error


def _row_groups(file: str, wanted: set[str]) -> Iterator[pa.Table]:
    with open_parquet(file) as parquet:
        leaves = leaf_indices(parquet.schema_arrow, wanted - _unread(parquet.schema_arrow))
        for index in range(parquet.num_row_groups):
            yield parquet.reader.read_row_group(index, column_indices=leaves)


def _unread(schema: pa.Schema) -> set[str]:
    return {path for path, dtype in leaf_types(schema) if kind_of(dtype) == "other"}


def _common_schema(paths: list[str]) -> pa.Schema:
    """The schema of all files; integers may be of different widths."""
    first: pa.Schema | None = None
    for file in paths:
        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
        if first is None:
            first = schema
            continue
        here, there = dict(leaf_types(schema)), dict(leaf_types(first))
        differences = [
            f"{path} is {here.get(path, 'missing')}, {there.get(path, 'missing')} there"
            for path in sorted(set(here) | set(there))
            if path not in here or path not in there or kind_of(here[path]) != kind_of(there[path])
        ]
        if differences:
            where = f"{files.shown(file)}: its columns differ from those of {files.shown(paths[0])}"
            raise UserError(f"{where}: {'; '.join(differences)}")
    return first
