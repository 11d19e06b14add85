"""The stages of a build as three stages of a Spark job.

    splits -> scan -> (bucket, blob) -> build -> (slice, blob) -> merge -> files

A split is of files, or of rows of a catalog table, which Spark reads (`catalog.py`). What tasks have for each other
goes through Spark's shuffle as blobs: Arrow files with all rows that one task has for one other task. One row of a blob
at a time through the JVM would take several times as long. Blobs carry the number of their split or bucket, since a
shuffle loses the order of the log, which decides between duplicates.

Tasks may run several times. Each attempt writes into another folder, and the driver takes the folders that
successful tasks returned.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from easq_rec import doctor
from easq_rec.errors import UserError
from easq_rec.tools.builder.blocks import BlockWriter, read_block
from easq_rec.tools.builder.bucket import Lookup
from easq_rec.tools.builder.catalog import (
    CatalogRows,
    CatalogTable,
    first_line,
    in_log_order,
    open_table,
)
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.fragment import HOUR_MS, fragment_parts
from easq_rec.tools.builder.quarantine import QuarantineFile
from easq_rec.tools.builder.scan import Scanner
from easq_rec.tools.builder.splits import LogSplit
from easq_rec.tools.builder.stages import (
    ASKED,
    COUNTS,
    DATASETS,
    OWNERS,
    REJECTED,
    Made,
    as_unit,
    build_bucket,
    first_owners,
    merge_slice,
)
from easq_rec.tools.builder.tables import OpenCatalogTable, RawTable, connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = pa.schema(
    [
        pa.field("target", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("slice", pa.int64(), nullable=False),
        pa.field("blob", pa.binary(), nullable=False),
    ]
)
"""Rows of the job: the partition that reads the row; the table, dataset, or one of the kinds below; the number of the
split or the bucket that it comes from; the time slice, or 0; and the content."""
DDL = "target int not null, kind string not null, place long not null, slice long not null, blob binary not null"
INDEX, FOLDER, COUNTED, LOST = "index", "folder", "counts", "rejected"
"""Kinds: the index of a fragment; the folder of a finished slice; the counts of a unit; its rejected rows."""
MERGES_PER_CORE = 2
"""Partitions of the merge, for each core of the cluster. A time slice is merged in one of them."""
BATCH_ROWS, BATCH_BYTES = 10_000, 2**25
"""Rows and bytes that Spark hands to Python at a time: rows of catalog tables are small, blobs are not."""
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Options of the JVM of a session in this process. It moves blobs for a short time, so optimising its code costs more
than it saves."""


Note = tuple[int, str, int, int, bytes]
"""A row of the job, as Python values."""
Scanning = Callable[[Iterable[LogSplit]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What tasks need to know."""

    build: Build
    splits: tuple[LogSplit, ...]
    buckets: int
    merges: int
    """Partitions of the merge."""
    area: str
    """Folder that all tasks see, in which attempts write their results."""
    catalog: tuple[CatalogRows, ...] = ()
    """The tables of Spark's catalog."""
    empty: Mapping[str, bytes] = field(default_factory=dict)
    """Cleaned rows of these tables, of which there are none, as Arrow files: they have the columns."""
    owners: bytes | None = None
    """The users of answers that do not name them, as an Arrow file."""

    @property
    def slice_ms(self) -> int:
        return self.build.output.slice_h * HOUR_MS

    def scan(self, splits: Iterable[LogSplit]) -> Iterator[pa.RecordBatch]:
        """Task of the first stage: splits to blobs of cleaned rows, by bucket."""
        for split in splits:
            with _folder() as folder:
                as_unit(partial(self.scan_split, split))(folder)
                present = np.unique(np.load(folder / "rows.npy")).tolist()
                # The first split of files tells every bucket which columns the table has.
                earlier = self.splits[: split.number]
                first = split.table not in self.empty and all(other.table != split.table for other in earlier)
                for bucket in range(self.buckets) if first else present:
                    rows = read_block([folder], bucket)
                    assert rows is not None
                    yield _row(bucket, split.table, split.number, 0, _stored(rows))
                yield from _notes(folder, self.buckets, split.number)

    def scan_split(self, split: LogSplit, folder: Path, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        """Writes the cleaned rows of a split to a folder."""
        owners = None if self.owners is None or split.table != "answers" else _opened(self.owners)
        with connect(self.build.engine, folder / "temp") as connection, BlockWriter(folder) as writer:
            scanner = Scanner(connection, self.build, folder, self.buckets)
            for _ in scanner.scan(split, writer, quarantine, counts, owners=owners):
                pass

    def cleaned(self, split: LogSplit) -> pa.Table:
        """The cleaned rows of a split, by itself."""
        with _folder() as folder:
            as_unit(partial(self.scan_split, split))(folder)
            rows = read_block([folder])
        assert rows is not None
        return rows

    def asked(self, splits: Iterable[LogSplit]) -> Iterator[pa.RecordBatch]:
        """Task of another job: splits of answers to what they were asked about."""
        for split in splits:
            with _folder() as folder, connect(self.build.engine, folder / "temp") as connection:
                found = Scanner(connection, self.build, folder, self.buckets).asked([split])
                yield _row(0, ASKED, split.number, 0, _stored(found))

    def find_owners(self, asked: bytes, splits: Iterable[LogSplit]) -> Iterator[pa.RecordBatch]:
        """Task of another job: splits of impressions to the users of those that were asked about."""
        for split in splits:
            with _folder() as folder, connect(self.build.engine, folder / "temp") as connection:
                scanner = Scanner(connection, self.build, folder, self.buckets)
                counts: Counter[str] = Counter()
                with BlockWriter(folder) as writer, QuarantineFile(folder / REJECTED, counts) as quarantine:
                    rows = scanner.scan(split, writer, quarantine, counts)
                    found = [scanner.owners_in(part, _opened(asked)) for part in rows]
                yield _row(0, OWNERS, split.number, 0, _stored(pa.concat_tables(found)))

    def build_requests(
        self, batches: Iterable[pa.RecordBatch], videos: Callable[[], bytes | None]
    ) -> Iterator[pa.RecordBatch]:
        """Task of the second stage: blobs of cleaned rows of a bucket to blobs of its requests, by time slice."""
        tables: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
        bucket = -1
        for target, kind, place, _, blob in _rows(batches):
            if kind in (COUNTED, LOST):
                yield _row(self.merges, kind, place, 0, blob)
            else:
                bucket = target
                tables[kind].append((place, blob))
        if bucket < 0:
            return
        with _folder() as folder:
            as_unit(partial(self._build, tables, videos()))(folder)
            for name in DATASETS:
                for number, rows, index in fragment_parts(folder / f"{name}.arrow", self.slice_ms):
                    target = number % self.merges
                    yield _row(target, name, bucket, number, rows)
                    yield _row(target, f"{name}.{INDEX}", bucket, number, index)
            yield from _notes(folder, self.merges, len(self.splits) + 1 + bucket)

    def _build(
        self,
        blobs: dict[str, list[tuple[int, bytes]]],
        videos: bytes | None,
        folder: Path,
        quarantine: QuarantineFile,
        counts: Counter[str],
    ) -> None:
        lookup = None if videos is None else Lookup.of(_opened(videos), "video_id", None, Counter())
        tables = {name: self.joined(name, blobs.get(name, [])) for name in ("impressions", "answers", "users")}
        build_bucket(self.build, tables, lookup, self.buckets, folder, quarantine, counts)

    def joined(self, table: str, blobs: list[tuple[int, bytes]]) -> pa.Table | None:
        """The cleaned rows of a table in the order of the log; None: the log has no such table.

        Args:
            blobs: numbers of splits, and rows.
        """
        parts = [_opened(self.empty[table])] if table in self.empty else []
        parts += [_opened(blob) for _, blob in sorted(blobs, key=lambda one: one[0])]
        return in_log_order(pa.concat_tables(parts).combine_chunks()) if parts else None

    def merge(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Task of the third stage: blobs of requests to files; rows say where they are."""
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        with _folder() as folder:
            found: defaultdict[int, defaultdict[str, dict[int, Path]]] = defaultdict(lambda: defaultdict(dict))
            for _, kind, place, number, blob in _rows(batches):
                if kind in (COUNTED, LOST):
                    yield _row(0, kind, place, 0, blob)
                    continue
                name, dot, _ = kind.partition(".")
                file = folder / f"{name}-{number}-{place}.arrow"
                (file.with_suffix(".npz") if dot else file).write_bytes(blob)
                found[number][name][place] = file
            attempt = Path(self.area) / f"attempt-{context.taskAttemptId()}-{uuid.uuid4().hex[:8]}"
            for number, datasets in sorted(found.items()):
                target = attempt / f"slice-{number}"
                target.mkdir(parents=True)
                files = {name: [file for _, file in sorted(datasets[name].items())] for name in DATASETS}
                merge_slice(self.build, number, files, target)
                yield _row(0, FOLDER, 0, number, str(target).encode())


class SparkEngine:
    """Opens catalog tables and runs the stages, in one session, which starts when it is needed first."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._open = ExitStack()
        self._started: SparkSession | None = None

    def __enter__(self) -> SparkEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def _spark(self) -> SparkSession:
        """Raises UserError: PySpark or Java is missing."""
        if self._started is None:
            self._started = self._open.enter_context(_session(self._build))
        return self._started

    def opener(self, connection: duckdb.DuckDBPyConnection) -> OpenCatalogTable:
        """Opens tables of the catalog.

        Args:
            connection: tells the types of the columns.
        """
        names = list(self._build.sources)
        return lambda name, source: open_table(self._spark, connection, name, source, names.index(name))

    def run(self, area: Path, splits: list[LogSplit], tables: Mapping[str, RawTable], buckets: int) -> Made:
        """Runs the stages.

        Args:
            area: folder that all tasks see.
            splits: of the tables in files.

        Raises:
            UserError: PySpark or Java is missing, a task fails, or a catalog table has changed.
        """
        folder = area / "spark"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        merges = MERGES_PER_CORE * self._spark.sparkContext.defaultParallelism
        catalog = [table for table in tables.values() if isinstance(table, CatalogTable)]
        job = Job(
            build=self._build,
            splits=tuple(splits),
            buckets=buckets,
            merges=merges,
            area=str(folder),
            catalog=tuple(table.reader for table in catalog),
        )
        try:
            stages = SparkStages(self._spark, job, {table.name: table.frame for table in catalog})
            notes = stages.run()
        except Exception as error:
            raise _readable(error) from error
        made = Made(counts=Counter(), rejected=[], merged=[])
        # In the order of a local build, whatever the order of the tasks was.
        for _, kind, place, _, blob in sorted(notes, key=lambda note: note[1:4]):
            if kind == COUNTED:
                made.counts.update(json.loads(blob))
            elif kind == LOST:
                made.rejected.append(folder / f"rejected-{place}.parquet")
                made.rejected[-1].write_bytes(blob)
            else:
                made.merged.append(Path(blob.decode()))
        for table in catalog:
            table.check(made.counts)
        return made


class SparkStages:
    """The stages of a job as data frames.

    Args:
        frames: the catalog tables, by name in the config.
    """

    def __init__(self, spark: SparkSession, job: Job, frames: Mapping[str, DataFrame]) -> None:
        self._spark = spark
        self._job = job
        self._frames = frames

    def run(self) -> list[Note]:
        """Runs all stages, and returns the folders of the slices, the counts and the rejected rows."""
        job = self._job
        if job.build.answers is not None and job.build.answers.columns.user_id is None:
            job = self._job = replace(job, owners=self._owners())
        empty = {reader.table: _stored(job.cleaned(reader.nothing)) for reader in job.catalog}
        job = self._job = replace(job, empty=empty)
        videos, notes = self._videos()
        shared = self._spark.sparkContext.broadcast(videos)
        built = (
            self._scanned(("impressions", "answers", "users"), job.scan)
            .repartitionById(job.buckets + 1, "target")
            .mapInArrow(lambda batches: job.build_requests(batches, lambda: shared.value), DDL)
        )
        merged = built.repartitionById(job.merges + 1, "target").mapInArrow(job.merge, DDL)
        return [*notes, *_rows(merged.toArrow().to_batches())]

    def _scanned(self, tables: tuple[str, ...], scan: Scanning) -> DataFrame:
        """What a task makes of all splits of some tables: one task for each split of files, and for each partition of a
        catalog table."""
        job = self._job
        numbers = [split.number for split in job.splits if split.table in tables]

        def files(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            places = [place for batch in batches for place in batch["id"].to_pylist()]
            return scan(job.splits[numbers[place]] for place in places)

        made = self._spark.range(0, len(numbers), 1, max(len(numbers), 1)).mapInArrow(files, DDL)
        for reader in job.catalog:
            if reader.table in tables:
                made = made.union(self._frames[reader.table].mapInArrow(partial(_of_rows, reader, scan), DDL))
        return made

    def _collected(self, table: str, scan: Scanning) -> list[Note]:
        """What a task makes of all splits of a table, and of no rows of it if it is in the catalog."""
        nothing = [reader.nothing for reader in self._job.catalog if reader.table == table]
        return [*_rows(scan(nothing)), *_rows(self._scanned((table,), scan).toArrow().to_batches())]

    def _owners(self) -> bytes:
        """The users of answers that do not name them. The impressions are scanned once more for it."""
        asked = pa.concat_tables([_opened(blob) for *_, blob in self._collected("answers", self._job.asked)])
        find = partial(self._job.find_owners, _stored(asked))
        return _stored(first_owners([_opened(blob) for *_, blob in self._collected("impressions", find)]))

    def _videos(self) -> tuple[bytes | None, list[Note]]:
        """The table of videos, which every bucket needs, and the notes of reading it."""
        job = self._job
        if job.build.videos is None:
            return None, []
        found = self._collected("videos", job.scan)
        notes = [note for note in found if note[1] in (COUNTED, LOST)]
        videos = job.joined("videos", [(place, blob) for _, kind, place, _, blob in found if kind == "videos"])
        with _folder() as folder:
            as_unit(lambda _, quarantine, counts: _count_versions(videos, quarantine, counts))(folder)
            notes += _rows(_notes(folder, 0, len(job.splits)))
        return None if videos is None else _stored(videos), notes


def _of_rows(reader: CatalogRows, scan: Scanning, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A task over the rows of a partition of a catalog table."""
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    return scan(reader.splits(batches, context.partitionId()))


def _count_versions(videos: pa.Table | None, quarantine: QuarantineFile, counts: Counter[str]) -> None:
    Lookup.of(videos, "video_id", quarantine, counts)


@contextmanager
def _session(build: Build) -> Iterator[SparkSession]:
    """The session that spark-submit has configured; without it, one in this process with `engine.threads` cores."""
    if problems := doctor.spark_problems():
        lacking = "; ".join(f"{problem.what}: {problem.remedy}" for problem in problems)
        raise UserError(f"--engine spark: {lacking}")
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("easq-rec data build")
    # spark-submit sets this variable, and has configured the session.
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        # Failed tasks are tried again, as on a cluster.
        builder = builder.master(f"local[{build.engine.threads},4]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.ui.showConsoleProgress", "false")
        builder = builder.config("spark.driver.defaultJavaOptions", JAVA_OPTIONS)
        # Blobs go to the local disk and back.
        builder = builder.config("spark.shuffle.compress", "false").config("spark.shuffle.spill.compress", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", str(BATCH_ROWS))
    builder = builder.config("spark.sql.execution.arrow.maxBytesPerBatch", str(BATCH_BYTES))
    if any(source.table is not None for source in build.sources.values()):
        # Spark's own catalog is then that of Hive, of which it keeps one here if none is configured.
        builder = builder.enableHiveSupport()
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def _readable(error: Exception) -> UserError:
    """What a task said to the user, or the first line of what Spark says."""
    name = "easq_rec.errors.UserError: "
    said = [line.partition(name)[2] for line in str(error).splitlines() if name in line]
    return UserError(said[-1] if said else f"--engine spark: the job failed: {first_line(error)}")


def _notes(folder: Path, target: int, place: int) -> Iterator[pa.RecordBatch]:
    """The counts and the rejected rows of a unit."""
    yield _row(target, COUNTED, place, 0, (folder / COUNTS).read_bytes())
    if (folder / REJECTED).exists():
        yield _row(target, LOST, place, 0, (folder / REJECTED).read_bytes())


def _row(target: int, kind: str, place: int, number: int, blob: bytes) -> pa.RecordBatch:
    columns = [[target], [kind], [place], [number], [blob]]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Note]:
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _stored(table: pa.Table) -> bytes:
    """A table as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _opened(blob: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader(blob)).read_all()


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder of a task."""
    with tempfile.TemporaryDirectory(prefix="easq-rec-build-") as name:
        yield Path(name)
