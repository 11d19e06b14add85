"""First stage: cleans the raw tables and distributes them to buckets of users that fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.tools.builder import parquet_file
from easq_rec.tools.builder.clean import ORPHAN, SEPARATOR, cells, select
from easq_rec.tools.builder.config import AnswerRules, Build
from easq_rec.tools.builder.quarantine import QuarantineFile
from easq_rec.tools.builder.tables import RawTable, Scan

DEALT = ("impressions", "answers", "users")
"""Tables that are distributed by user; every partition reads all videos."""
SCAN_ROWS = 122_880
"""Rows of the engine's batches (its row group size), and number of batches distributed at once."""
DEAL_BATCHES = 4
MOST_BUCKETS = 512
"""Maximum number of open files per table."""
NOTES = ["reason", "defaulted", "raw", "place"]
"""Columns about a row, which are not data."""
NO_ROW = "is not a row of the CSV file"


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Share of the users to build: number `index` (from 0) of `of`."""

    index: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        return f"part-{self.index + 1}-of-{self.of}"


class PartitionReader:
    """Reads one partition of users from the raw tables through the engine.

    Args:
        temp: directory for CSV files that have to be rewritten.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        build: Build,
        tables: dict[str, RawTable],
        partition: Partition,
        temp: Path,
    ) -> None:
        self._temp = temp
        self._connection = connection
        self._build = build
        self._tables = tables
        self._partition = partition

    def bucket_count(self) -> int:
        """Number of buckets of this partition."""
        rows = sum(scan.rows for scan in self._tables["impressions"].scans)
        size = self._build.engine.bucket_impressions * self._partition.of
        return min(max(-(-rows // size), 1), MOST_BUCKETS)

    def deal(self, folder: Path, buckets: int, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        """Writes `TABLE-BUCKET.arrow` for every distributed table and every bucket."""
        for name in DEALT:
            if name not in self._tables:
                continue
            with ExitStack() as stack:
                writers: list[pa.RecordBatchWriter] = []
                for batches in self._cleaned(name, buckets, quarantine, counts):
                    if not writers:
                        schema = batches.drop_columns(["bucket"]).schema
                        paths = [folder / bucket_file(name, bucket) for bucket in range(buckets)]
                        writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths]
                    _deal(batches, writers)

    def videos(self, quarantine: QuarantineFile, counts: Counter[str]) -> pa.Table | None:
        """All versions of all videos; None without a table of videos. The first partition counts its rows."""
        if "videos" not in self._tables:
            return None
        parts = list(self._cleaned("videos", 1, quarantine, counts))
        return pa.concat_tables(parts).drop_columns(["bucket"])

    def _cleaned(self, name: str, buckets: int, quarantine: QuarantineFile, counts: Counter[str]) -> Iterator[pa.Table]:
        """Good rows of this partition with their `bucket`; bad ones go to the quarantine. At least one table."""
        table = self._tables[name]
        first, of = self._partition.index == 0, self._partition.of
        if first:
            counts[f"{name}.files"] += len(table.files.paths)
            counts[f"{name}.files.empty"] += len(table.files.empty)
        owner = (
            self._owners() if isinstance(table.source, AnswerRules) and table.source.columns.user_id is None else None
        )
        key = "hash(video_id)" if name == "videos" else "hash(user_id)"
        # Nulls have a hash too: a row without a user belongs to one partition, which counts it.
        mine = f"WHERE {key} % {of} = {self._partition.index}" if name != "videos" else ""
        bucket = f"CAST({key} // {of} % {buckets} AS USMALLINT) AS bucket"
        for scan in table.scans:
            # Lines that are no rows have no user, so the first partition counts them.
            with self._rows(name, scan, owner, quarantine if first else None, counts) as rows:
                for group in self._read(scan, f"SELECT *, {bucket} FROM ({rows}) {mine}"):
                    if name != "videos" or first:
                        counts[f"{name}.read"] += len(group)
                        _note(name, group, quarantine, counts)
                    bad = group["reason"].null_count < len(group)
                    yield (group.filter(pc.is_null(group["reason"])) if bad else group).drop_columns(NOTES)

    def _read(self, scan: Scan, query: str) -> Iterator[pa.Table]:
        """The result of a query over a scan, in parts. At least one. Raises UserError if a file cannot be read."""
        try:
            batches = self._connection.sql(query).to_arrow_reader(SCAN_ROWS)
            yield from _grouped(batches, DEAL_BATCHES)
            yield pa.table({column.name: pa.array([], column.type) for column in batches.schema})
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise _unreadable(scan, error) from error

    @contextmanager
    def _rows(
        self, name: str, scan: Scan, owner: str | None, quarantine: QuarantineFile | None, counts: Counter[str]
    ) -> Iterator[str]:
        """SQL of the cleaned rows of a scan. CSV lines that are no rows are quarantined when the block ends.

        Args:
            quarantine: None: such lines are left out.
        """
        with scan.relation(self._temp) as (relation, rejected):
            yield select(cells(self._build, name, scan), relation, owner=owner)
        if scan.csv:
            lines = [*self._rejects(scan), *((NO_ROW, line, scan.files[0].path) for line in rejected)]
            if quarantine is not None and lines:
                counts[f"{name}.read"] += len(lines)
                reasons, texts, places = zip(*lines, strict=True)
                counts.update(f"{name}.bad.{reason}" for reason in reasons)
                rows = pa.array([json_file.text(line) for line in texts])
                quarantine.add(name, pa.array(reasons), rows, pa.array(places))

    def _rejects(self, scan: Scan) -> Iterator[tuple[str, str, str]]:
        """(reason, line, place) of the lines that the engine could not read since the last call."""
        # A line may have several errors.
        query = (
            "SELECT line, any_value(csv_line), bool_or(error_type = 'INVALID ENCODING'), "
            "bool_or(error_type = 'UNQUOTED VALUE') FROM reject_errors GROUP BY line ORDER BY line"
        )
        found = self._connection.execute(query).fetchall()
        self._connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
        for number, text, undecoded, unquoted in found:
            reason = f"is not text in {scan.source.encoding}: is encoding right?" if undecoded else NO_ROW
            # A quote that is not closed takes all lines up to the next one: each of them is lost.
            lines = (text or "").splitlines() if unquoted else [text or ""]
            for offset, line in enumerate(lines or [""]):
                yield reason, line, f"{scan.files[0].path}, line {number + offset}"

    def _owners(self) -> str:
        """A table (request_id, video_id, user_id) of the impressions that match an answer without a user."""
        parts = {
            "answers": ("asked", "request_id, video_id", ""),
            "impressions": ("shown", "request_id, video_id, user_id", "WHERE reason IS NULL"),
        }
        for name, (table, columns, good) in parts.items():
            for number, scan in enumerate(self._tables[name].scans):
                with self._rows(name, scan, None, None, Counter()) as rows:
                    head = f"INSERT INTO {table}" if number else f"CREATE OR REPLACE TEMP TABLE {table} AS"
                    matching = " SEMI JOIN asked USING (request_id, video_id)" if name == "impressions" else ""
                    try:
                        self._connection.execute(f"{head} SELECT {columns} FROM ({rows}){matching} {good}")
                    except duckdb.Error as error:
                        raise _unreadable(scan, error) from error
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE owner AS SELECT request_id, video_id, min(user_id) AS user_id FROM shown "
            "GROUP BY request_id, video_id; DROP TABLE asked; DROP TABLE shown"
        )
        return "owner"


def _unreadable(scan: Scan, error: Exception) -> UserError:
    """The error for files that the engine fails to read; it does not say which of them."""
    line = str(error).splitlines()[0]
    if "Out of Memory" in line:
        return UserError(f"engine.memory_mb: too little memory to read {scan.files[0].path}: {line}")
    paths = [file.path for file in scan.files]
    found = "" if scan.csv else parquet_file.damage(paths)
    listed = paths[0] if len(paths) == 1 else f"one of {len(paths)} files from {paths[0]} on"
    return UserError(found or f"{listed}: cannot be read: {line}")


def _note(name: str, rows: pa.Table, quarantine: QuarantineFile, counts: Counter[str]) -> None:
    """Quarantines the bad rows, and counts them and the cells that a default replaced."""
    if rows["reason"].null_count < len(rows):
        bad = rows.filter(pc.is_valid(rows["reason"]))
        quarantine.add(name, *(bad[column].combine_chunks() for column in ("reason", "raw", "place")))
        for entry in pc.value_counts(bad["reason"]).to_pylist():
            if entry["values"] != ORPHAN:
                counts[f"{name}.bad.{entry['values']}"] += entry["counts"]
    if rows["defaulted"].null_count < len(rows):
        reasons = pc.split_pattern(rows["defaulted"].drop_null().combine_chunks(), SEPARATOR).flatten()
        for entry in pc.value_counts(reasons).to_pylist():
            counts[f"{name}.defaulted.{entry['values']}"] += entry["counts"]


def bucket_file(table: str, bucket: int) -> str:
    return f"{table}-{bucket:04d}.arrow"


def read_bucket(folder: Path, table: str, bucket: int) -> pa.Table | None:
    """The rows of a bucket in raw table order; None if the log has no such table."""
    path = folder / bucket_file(table, bucket)
    if not path.exists():
        return None
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_stream(file).read_all().combine_chunks()


def remove_bucket(folder: Path, bucket: int) -> None:
    """Frees the disk space of a finished bucket."""
    for table in DEALT:
        (folder / bucket_file(table, bucket)).unlink(missing_ok=True)


def _grouped(batches: pa.RecordBatchReader, size: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if len(held) == size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _deal(rows: pa.Table, writers: list[pa.RecordBatchWriter]) -> None:
    """Appends every row to the file of its bucket, in order."""
    bucket = rows["bucket"].to_numpy()
    rows = rows.drop_columns(["bucket"])
    if len(writers) > 1:
        order = np.argsort(bucket, kind="stable")
        bucket, rows = bucket[order], rows.take(order).combine_chunks()
    bounds = np.searchsorted(bucket, np.arange(len(writers) + 1))
    for number, writer in enumerate(writers):
        if bounds[number] < bounds[number + 1]:
            writer.write_table(rows.slice(bounds[number], bounds[number + 1] - bounds[number]))
