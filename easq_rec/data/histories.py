"""Histories by reference: requests that hold a range of a list, where the plain layout holds a copy of its entries.

A folder `histories/` beside `requests/` holds `part-*.parquet`: a row per user with the list of the entries that any of
their requests in some span of time has. The column `history` of a request is then a struct `{part, row, begin,
length}`: entries `begin` to `begin + length` of the list in row `row` of file number `part`. The entries of a range, in
the order of their times, are the history. `easq-rec data convert` writes this layout.

Parquet is compressed and has no random access, so each file is decoded once per machine, into a temporary file that all
processes map into memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from easq_rec.data import files
from easq_rec.data.bad_rows import Place, check, no_nulls
from easq_rec.data.columns import Array, Rows, offsets_of
from easq_rec.data.layout import Layout
from easq_rec.data.layout import leaf_indices as layout_leaves
from easq_rec.errors import UserError

FOLDER = "histories"
COLUMN, USER, TIME = "history", "user_id", "timestamp_ms"
REFERENCE = pa.struct(
    [pa.field(name, pa.int32(), nullable=False) for name in ("part", "row", "begin", "length")],
)
"""Type of a reference."""
PATHS = tuple(f"{COLUMN}.{field.name}" for field in REFERENCE)


def refers(schema: pa.Schema) -> bool:
    """Whether files of this schema have references in place of histories."""
    dtype = schema.field(COLUMN).type if COLUMN in schema.names else pa.null()
    return pa.types.is_struct(dtype) and {field.name for field in dtype} == {field.name for field in REFERENCE}


PART = re.compile(r"part-(\d{5,})\.parquet")
"""Names of the files in `histories/`."""


def part_name(part: int) -> str:
    """Name of a file in `histories/`."""
    return f"part-{part:05d}.parquet"


def leaf_indices(schema: pa.Schema, layout: Layout) -> list[int]:
    """Indices of the Parquet leaves that a layout reads of files with this schema, references included."""
    paths = {column.path for column in layout.columns}
    if refers(schema) and any(path.startswith(f"{COLUMN}.") for path in paths):
        paths |= {USER, *PATHS}
    return layout_leaves(schema, paths)


@dataclass(frozen=True, kw_only=True)
class HistoryLists:
    """The lists of one file of `histories/`."""

    user_L: Rows
    """User of each of the L lists."""
    offset_L1: Rows
    """(L + 1,) of the lists in `entries`."""
    entries: pa.StructArray
    """The entries of all lists."""

    @staticmethod
    def of(table: pa.Table) -> HistoryLists:
        """The lists of a table with the columns of a file."""
        if not len(table):
            return HistoryLists(
                user_L=np.zeros(0, np.int64),
                offset_L1=np.zeros(1, np.int64),
                entries=pa.array([], table.schema.field(COLUMN).type.value_type),
            )
        assert table[COLUMN].num_chunks == 1, "`_read` checks the size"
        lists = table[COLUMN].chunk(0)
        return HistoryLists(
            user_L=table[USER].chunk(0).to_numpy(),
            offset_L1=lists.offsets.to_numpy().astype(np.int64),
            entries=lists.values,
        )

    def ranges(self, begin_R: Rows, length_R: Rows, names: Collection[str] | None = None) -> pa.ListArray:
        """The entries at `begin_R` to `begin_R + length_R`, each list in the order of the entries' times.

        Args:
            names: fields of an entry to return; None: all.
        """
        offset_R1 = offsets_of(length_R)
        begin, length = pa.array(begin_R.astype(np.int32)), pa.array(length_R.astype(np.int32))
        fields = [field for field in self.entries.type if names is None or field.name in (TIME, *names)]
        # Copies whole ranges; an index of entries takes longer.
        taken = {
            f.name: pa.ListViewArray.from_arrays(begin, length, self.entries.field(f.name)).flatten() for f in fields
        }
        time = taken[TIME].to_numpy()
        # Watches that overlap end in another order than they began.
        earlier = np.flatnonzero(time[1:] < time[:-1]) + 1
        if len(np.setdiff1d(earlier, offset_R1, assume_unique=True)):
            order = _order(np.repeat(np.arange(len(length_R)), length_R), time)
            taken = {name: _take(array, order) for name, array in taken.items()}
        fields = [field for field in fields if names is None or field.name in names]
        entries = pa.StructArray.from_arrays([taken[field.name] for field in fields], fields=fields)
        return pa.ListArray.from_arrays(pa.array(offset_R1.astype(np.int32)), entries)


class HistoryFolder:
    """The folder `histories/` of a data directory. Thread-safe.

    Args:
        directory: that of the dataset whose requests refer to them, such as `DIR/requests`.

    Raises:
        UserError: it is missing or unreadable.
    """

    def __init__(self, directory: files.Location) -> None:
        self._folder = files.join(files.parent(directory), FOLDER)
        if not files.is_dir(self._folder):
            raise UserError(
                f"{files.display_name(directory)}: its requests refer to histories, but there is no folder "
                f"{files.display_name(self._folder)}: copy it, too, or write the histories into the requests with "
                "`easq-rec data convert --histories inline` where it is"
            )
        names = files.parquet_files(self._folder)
        first = _read_schema(files.join(self._folder, names[0]))
        self.field = first.field(COLUMN)
        """Field of a user's list in the files."""
        strange = [name for name in names if not PART.fullmatch(name)]
        if strange:
            raise UserError(f"{files.display_name(self._folder)}: {strange[0]} is no name of a file of histories")
        self._identities = {name: files.identity(files.join(self._folder, name)) for name in names}
        self._opened: dict[str, HistoryLists] = {}

    @property
    def locations(self) -> list[str]:
        """Locations of the files."""
        return [files.join(self._folder, name) for name in self._identities]

    @property
    def parts(self) -> list[int]:
        """Numbers of the files, in the order of `locations`."""
        return [int(PART.sub(r"\1", name)) for name in self._identities]

    @property
    def description(self) -> str:
        """Names and sizes of the files, for the fingerprint of a dataset."""
        return " ".join(f"{name} {size}" for name, (_, size) in self._identities.items())

    def resolved(self, schema: pa.Schema) -> pa.Schema:
        """The schema of requests with histories in place of the references."""
        field = pa.field(COLUMN, self.field.type, nullable=schema.field(COLUMN).nullable)
        return schema.set(schema.get_field_index(COLUMN), field)

    def read(self, table: pa.Table, layout: Layout, place: Place) -> pa.Table:
        """What a layout reads, from the columns of `leaf_indices`. Raises errors as `resolve` does."""
        if not refers(table.schema):
            return table
        paths = {column.path for column in layout.columns}
        names = [path.removeprefix(f"{COLUMN}.") for path in paths if path.startswith(f"{COLUMN}.")]
        table = self.resolve(table, place, names)
        return table if USER in paths else table.drop_columns([USER])

    def resolve(self, table: pa.Table, place: Place, names: Collection[str] | None = None) -> pa.Table:
        """Requests with histories in place of the references.

        Args:
            table: with columns `history` and `user_id`.
            names: fields of an entry to return; None: all.

        Raises:
            BadRows: a reference that is null, or to no list of the request's user.
            UserError: a file cannot be read, or there is no space to decode it.
        """
        references = table[COLUMN].combine_chunks()
        references = references.chunk(0) if isinstance(references, pa.ChunkedArray) else references
        no_nulls(references, COLUMN, place, "a reference to a history")
        part_R, row_R, begin_R, length_R = (
            references.field(field.name).to_numpy(zero_copy_only=False).astype(np.int64) for field in REFERENCE
        )
        user_R = table[USER].to_numpy()
        parts = np.unique(part_R)
        pieces, order = [], []
        for part in parts.tolist():
            rows = np.flatnonzero(part_R == part)
            lists = self._lists(part, place, rows)
            found = self._checked(lists, place, rows, user_R[rows], row_R[rows], begin_R[rows], length_R[rows], part)
            pieces.append(lists.ranges(found, length_R[rows], names))
            order.append(rows)
        if len(parts) == 1:
            column = pieces[0]
        elif pieces:
            column = pa.concat_arrays(pieces).take(pa.array(np.argsort(np.concatenate(order), kind="stable")))
        else:
            column = pa.array([], pa.list_(self._entry(names)))
        return table.set_column(table.schema.get_field_index(COLUMN), COLUMN, column)

    def _entry(self, names: Collection[str] | None) -> pa.DataType:
        """Type of an entry with some of its fields."""
        return pa.struct([field for field in self.field.type.value_type if names is None or field.name in names])

    def _checked(
        self,
        lists: HistoryLists,
        place: Place,
        rows: Rows,
        user_R: Array,
        row_R: Rows,
        begin_R: Rows,
        length_R: Rows,
        part: int,
    ) -> Rows:
        """Positions in the entries of a file, of the beginnings of ranges."""
        where = f"in {FOLDER}/{part_name(part)}"
        count = len(lists.user_L)
        check((row_R < 0) | (row_R >= count), row_R, f"{COLUMN}.row", place, rows, f"one of the {count:,} rows {where}")
        other = lists.user_L[row_R] != user_R
        check(other, row_R, f"{COLUMN}.row", place, rows, f"a row of the request's user {where}")
        most = (lists.offset_L1[1:] - lists.offset_L1[:-1])[row_R]
        outside = (begin_R < 0) | (length_R < 0) | (begin_R + length_R > most)
        shown = np.char.add(np.char.add(begin_R.astype(str), " and "), length_R.astype(str))
        check(outside, shown, f"{COLUMN}.begin and length", place, rows, f"a range of the user's list {where}")
        return lists.offset_L1[row_R] + begin_R

    def _lists(self, part: int, place: Place, rows: Rows) -> HistoryLists:
        name = part_name(part)
        if name not in self._opened:
            unknown = np.full(len(rows), part)
            check(
                np.full(len(rows), name not in self._identities),
                unknown,
                f"{COLUMN}.part",
                place,
                rows,
                f"the number of a file in {files.display_name(self._folder)}",
            )
            self._opened[name] = _mapped(files.join(self._folder, name), self._identities[name])
        return self._opened[name]


def _mapped(file: str, identity: tuple[int, ...]) -> HistoryLists:
    """The lists of a file, mapped into memory; the first process of a machine decodes them.

    Raises UserError if it cannot be read or decoded.
    """
    digest = hashlib.sha256(repr((file if files.is_remote(file) else os.path.abspath(file), identity)).encode())
    folder = Path(tempfile.gettempdir()) / f"easq-rec-{os.getuid()}" / FOLDER
    decoded = folder / f"{digest.hexdigest()[:24]}.arrow"
    if not decoded.exists():
        table = _read(file)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Each process has another name, since all of a machine may decode at the same time.
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as unfinished:
                pass
            try:
                with pa.ipc.new_file(unfinished.name, table.schema) as writer:
                    writer.write_table(table)
                os.rename(unfinished.name, decoded)
            except BaseException:
                os.unlink(unfinished.name)
                raise
        except OSError as error:
            raise UserError(
                f"{files.display_name(file)}: its {table.nbytes / 2**20:,.0f} MiB cannot be decoded to {folder}: "
                f"{error}: let TMPDIR name a folder with more space"
            ) from error
    return HistoryLists.of(pa.ipc.open_file(pa.memory_map(str(decoded))).read_all())


def _read(file: str) -> pa.Table:
    """A file as a table of one chunk."""
    try:
        with pq.ParquetFile(files.open_file(file)) as parquet:
            table = parquet.read(columns=[USER, COLUMN], use_threads=False).combine_chunks()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{files.display_name(file)}: cannot be read: {error}") from error
    if table[COLUMN].num_chunks > 1:
        raise UserError(f"{files.display_name(file)}: has 2^31 entries or more: write smaller files")
    if table[USER].null_count or table[COLUMN].null_count:
        raise UserError(f"{files.display_name(file)}: has a null user or list: write the histories again")
    return table


def _read_schema(file: str) -> pa.Schema:
    try:
        with pq.ParquetFile(files.open_file(file)) as parquet:
            schema = parquet.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{files.display_name(file)}: not a readable Parquet file: {error}") from error
    found = {field.name for field in schema}
    if not {USER, COLUMN} <= found or not pa.types.is_list(schema.field(COLUMN).type):
        raise UserError(f"{files.display_name(file)}: expected a column {USER} and a list {COLUMN}; it has {[*found]}")
    return schema


def _order(owner: Rows, time: Rows) -> Rows:
    """The order of entries by time within their lists, which are one after the other."""
    since = time - time.min()
    span = int(since.max()) + 1
    if (int(owner[-1]) + 1) * span < 2**63:
        # One number in the same order: a stable sort of nearly sorted numbers is eight times as fast as lexsort.
        return np.argsort(owner * span + since, kind="stable")
    return np.lexsort((time, owner))


def _take(array: pa.Array, at: Rows) -> pa.Array:
    """Entries of a column."""
    number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if array.null_count or not number:
        return pc.take(array, pa.array(at))
    # numpy gathers faster than Arrow does.
    return pa.array(array.to_numpy().take(at), array.type)
