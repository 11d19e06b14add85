"""First stage: cleans the raw tables and distributes them to buckets of users that fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from easq_rec.tools.builder.clean import cells, select
from easq_rec.tools.builder.config import AnswerRules, Build
from easq_rec.tools.builder.quarantine import QuarantineFile
from easq_rec.tools.builder.tables import RawTable

DEALT = ("impressions", "answers", "users")
"""Tables that are distributed by user; every partition reads all videos."""
SCAN_ROWS = 122_880
"""Rows of the engine's batches (its row group size), and number of batches distributed at once."""
DEAL_BATCHES = 4
MOST_BUCKETS = 512
"""Maximum number of open files per table."""
CSV_ROW_BYTES = 40
"""An estimate, used only for the number of buckets."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Share of the users to build: number `index` (from 0) of `of`."""

    index: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        return f"part-{self.index + 1}-of-{self.of}"


class PartitionReader:
    """Reads one partition of users from the raw tables through the engine."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, build: Build, tables: dict[str, RawTable], partition: Partition
    ) -> None:
        self._connection = connection
        self._build = build
        self._tables = tables
        self._partition = partition

    def bucket_count(self) -> int:
        """Number of buckets of this partition."""
        table = self._tables["impressions"]
        if table.csv:
            rows = sum(Path(file).stat().st_size for file in table.files) // CSV_ROW_BYTES
        else:
            rows = sum(pq.read_metadata(file).num_rows for file in table.files)
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
        owner = (
            self._owners() if isinstance(table.source, AnswerRules) and table.source.columns.user_id is None else None
        )
        made = cells(self._build, table)
        key = "hash(video_id)" if name == "videos" else "hash(user_id)"
        for scan in table.scans():
            # Nulls have a hash too: a row without a user belongs to one partition, which counts it.
            mine = f"WHERE {key} % {of} = {self._partition.index}" if name != "videos" else ""
            bucket = f"CAST({key} // {of} % {buckets} AS USMALLINT) AS bucket"
            reader = self._connection.sql(f"SELECT *, {bucket} FROM ({select(made, scan, owner=owner)}) {mine}")
            batches = reader.to_arrow_reader(SCAN_ROWS)
            for group in _grouped(batches, DEAL_BATCHES):
                good = group.filter(pc.is_null(group["reason"])) if group["reason"].null_count < len(group) else group
                if name != "videos" or first:
                    counts[f"{name}.read"] += len(group)
                    if len(good) < len(group):
                        bad = group.filter(pc.is_valid(group["reason"]))
                        quarantine.add(name, bad["reason"].combine_chunks(), bad["raw"].combine_chunks())
                yield good.drop_columns(["reason", "raw"])
            yield pa.table({f.name: pa.array([], f.type) for f in batches.schema if f.name not in ("reason", "raw")})
            if table.csv:
                self._rejects(name, quarantine, counts, mine=first)

    def _rejects(self, name: str, quarantine: QuarantineFile, counts: Counter[str], *, mine: bool) -> None:
        """Quarantines CSV lines that are not rows. They have no user, so the first partition counts them."""
        # A line may have several errors.
        query = (
            "SELECT CAST(to_json(any_value(csv_line)) AS VARCHAR) AS row FROM reject_errors GROUP BY line ORDER BY line"
        )
        lines = self._connection.sql(query).to_arrow_table()
        self._connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
        if mine and len(lines):
            counts[f"{name}.read"] += len(lines)
            quarantine.add(name, "is not a row of the CSV file", lines["row"].combine_chunks())

    def _owners(self) -> str:
        """A table (request_id, video_id, user_id) of the impressions that match an answer without a user."""
        answers, impressions = self._tables["answers"], self._tables["impressions"]
        keys = "SELECT request_id, video_id FROM ({})"
        asked = " UNION ALL ".join(keys.format(select(cells(self._build, answers), s)) for s in answers.scans())
        shown = " UNION ALL ".join(
            f"SELECT request_id, video_id, user_id FROM ({select(cells(self._build, impressions), scan)}) "
            "WHERE reason IS NULL"
            for scan in impressions.scans()
        )
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE owner AS SELECT request_id, video_id, min(user_id) AS user_id "
            f"FROM ({shown}) SEMI JOIN ({asked}) USING (request_id, video_id) GROUP BY request_id, video_id"
        )
        self._connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
        return "owner"


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
