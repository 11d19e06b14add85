"""Scans a split: cleans its rows and divides them between buckets of users that fit into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.tools.builder.blocks import BUCKET, BlockWriter
from easq_rec.tools.builder.clean import ORPHAN, SEPARATOR, cells, select
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.quarantine import QuarantineFile
from easq_rec.tools.builder.splits import LogSplit
from easq_rec.tools.builder.tables import FileScan, Scan

SCAN_ROWS = 122_880
"""Rows of the engine's batches (its row group size), and number of batches divided at once."""
SCAN_BATCHES = 4
NOTES = ["reason", "defaulted", "raw", "place"]
"""Columns about a row, which are not data."""
NO_ROW = "is not a row of the CSV file"
KEYS = "request_id, video_id"
"""What an answer without a user has in common with its impression."""


class Scanner:
    """Reads splits through the engine.

    Args:
        temp: directory for CSV files that have to be rewritten.
        buckets: number of buckets.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, build: Build, temp: Path, buckets: int) -> None:
        self._connection = connection
        self._build = build
        self._temp = temp
        self._buckets = buckets

    def scan(
        self,
        split: LogSplit,
        writer: BlockWriter,
        quarantine: QuarantineFile,
        counts: Counter[str],
        *,
        owners: pa.Table | None = None,
    ) -> Iterator[pa.Table]:
        """Writes the good rows of a split, each to the bucket of its user; videos have one bucket.

        Args:
            owners: (request_id, video_id, user_id) of the impressions of answers that do not name their user.

        Yields:
            the written rows, in parts.
        """
        owner = None
        if owners is not None:
            owner = "owner"
            self._connection.register(owner, owners)
        bucket = "0" if split.table == "videos" else f"hash(user_id) % {self._buckets}"
        with self._rows(split, owner, quarantine, counts) as rows:
            for group in self._read(split.scan, f"SELECT *, CAST({bucket} AS USMALLINT) AS {BUCKET} FROM ({rows})"):
                counts[f"{split.table}.read"] += len(group)
                _note(split.table, group, quarantine, counts)
                bad = group["reason"].null_count < len(group)
                good = (group.filter(pc.is_null(group["reason"])) if bad else group).drop_columns(NOTES)
                writer.add(good)
                yield good

    def asked(self, splits: list[LogSplit]) -> pa.Table:
        """The (request_id, video_id) of all answers."""
        parts: list[pa.Table] = []
        for split in splits:
            with self._rows(split, None, None, Counter()) as rows:
                parts += self._read(split.scan, f"SELECT DISTINCT {KEYS} FROM ({rows})")
        return pa.concat_tables(parts)

    def owners_in(self, rows: pa.Table, asked: pa.Table) -> pa.Table:
        """The (request_id, video_id, user_id) of the impressions among `rows` that were asked about."""
        # Another query on the connection itself would end the one that reads the split.
        with self._connection.cursor() as other:
            other.register("asked", asked)
            other.register("shown", rows)
            return other.sql(f"SELECT {KEYS}, user_id FROM shown SEMI JOIN asked USING ({KEYS})").to_arrow_table()

    def _read(self, scan: Scan, query: str) -> Iterator[pa.Table]:
        """The result of a query over a scan, in parts. At least one. Raises UserError if a file cannot be read."""
        try:
            batches = self._connection.sql(query).to_arrow_reader(SCAN_ROWS)
            yield from _grouped(batches, SCAN_BATCHES)
            yield pa.table({column.name: pa.array([], column.type) for column in batches.schema})
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise UserError(scan.unreadable(str(error).splitlines()[0])) from error

    @contextmanager
    def _rows(
        self, split: LogSplit, owner: str | None, quarantine: QuarantineFile | None, counts: Counter[str]
    ) -> Iterator[str]:
        """SQL of the cleaned rows of a split. CSV lines that are no rows are quarantined when the block ends.

        Args:
            quarantine: None: such lines are left out.
        """
        name, scan = split.table, split.scan
        with scan.relation(self._connection, self._temp) as (relation, rejected):
            yield select(cells(self._build, name, scan), relation, owner=owner)
        if isinstance(scan, FileScan) and scan.csv:
            lines = [*self._rejects(scan), *((NO_ROW, line, scan.files[0].path) for line in rejected)]
            if quarantine is not None and lines:
                counts[f"{name}.read"] += len(lines)
                reasons, texts, places = zip(*lines, strict=True)
                counts.update(f"{name}.bad.{reason}" for reason in reasons)
                rows = pa.array([json_file.text(line) for line in texts])
                quarantine.add(name, pa.array(reasons), rows, pa.array(places))

    def _rejects(self, scan: FileScan) -> Iterator[tuple[str, str, str]]:
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


def _grouped(batches: pa.RecordBatchReader, size: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if len(held) == size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)
