"""The stages of a build, as units of work that any number of processes share.

1. Scan: each split of the raw log is cleaned and divided between buckets of users.
2. Build: each bucket becomes requests in the order of time.
3. Merge: the requests of all buckets become Parquet files, a time slice at a time.

Every unit writes its counts and the rows that it rejected beside its result. A result depends on the log and the config
alone, not on the process that made it or on their number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from easq_rec import json_file
from easq_rec.tools.builder.area import Area, Unit
from easq_rec.tools.builder.blocks import NAME as ROWS
from easq_rec.tools.builder.blocks import BlockWriter, read_block
from easq_rec.tools.builder.bucket import Bucket, Lookup
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.fragment import HOUR_MS, slices_of, write_fragment
from easq_rec.tools.builder.layout import dataset_schema
from easq_rec.tools.builder.merge import merge
from easq_rec.tools.builder.quarantine import QuarantineFile
from easq_rec.tools.builder.scan import Scanner
from easq_rec.tools.builder.splits import LogSplit
from easq_rec.tools.builder.versions import Int

DATASETS = {"requests": False, "answers": True}
"""Dataset name: whether its candidates have answers."""
COUNTS, REJECTED = "counts.json", "rejected.parquet"
"""Files of every unit: its counts, and the rows that it rejected, if any."""
ASKED, OWNERS, VIDEOS = "asked", "owners", "videos"
"""Names of units and of files in them."""
MERGED_REQUESTS = 65_536
"""Requests that a merge holds in memory, over all buckets."""
BATCH_REQUESTS = (128, 1_024)
"""Minimum and maximum batch of a bucket: small batches cost time."""

Work = Callable[[Path, QuarantineFile, Counter[str]], None]
"""What a unit does: it fills a folder, rejects rows, and counts."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the stages leave to be published."""

    counts: Counter[str]
    """Of all units together."""
    rejected: list[Path]
    """Files of rejected rows, in order."""
    merged: list[Path]
    """Folders of time slices, each with a folder for every dataset."""


class BuildStages:
    """All units of a build.

    Args:
        connection: the SQL engine of this process.
        temp: directory for temporary files of this process.
        splits: all splits of the log.
        buckets: number of buckets, the same for all processes.
    """

    def __init__(
        self,
        area: Area,
        build: Build,
        connection: duckdb.DuckDBPyConnection,
        temp: Path,
        *,
        splits: list[LogSplit],
        buckets: int,
    ) -> None:
        self._area = area
        self._build = build
        self._scanner = Scanner(connection, build, temp, buckets)
        self._splits = splits
        self._buckets = buckets
        self._slice_ms = build.output.slice_h * HOUR_MS
        self._needs_owners = build.answers is not None and build.answers.columns.user_id is None
        """Whether answers get their users from their impressions."""
        self._videos: tuple[Lookup | None] | None = None
        """The lookup of videos, which this process keeps for all of its buckets; None: not made yet."""

    def run(self) -> Made:
        """Returns when all units are done."""
        scans = {split.name: as_unit(partial(self._scan, split)) for split in self._splits}
        if self._needs_owners:
            later = {split.name: scans.pop(split.name) for split in self._of("answers")}
            self._area.do(ASKED, {ASKED: self._asked})
            self._area.do("scan", scans)
            self._area.do("scan of answers", later)
        else:
            self._area.do("scan", scans)
        self._area.do(VIDEOS, {VIDEOS: as_unit(self._count_videos)})
        self._area.do("build", {_bucket_name(n): as_unit(partial(self._bucket, n)) for n in range(self._buckets)})
        # All buckets are built, so that nobody reads the splits any more.
        for split in self._splits:
            (self._area.folder(split.name) / ROWS).unlink(missing_ok=True)
        merged = {f"slice-{number}": partial(self._merge, number) for number in self._slices()}
        self._area.do("merge", merged)
        counts: Counter[str] = Counter()
        names = [*(split.name for split in self._splits), VIDEOS, *map(_bucket_name, range(self._buckets))]
        folders = [self._area.folder(name) for name in names]
        for folder in folders:
            counts.update(json.loads((folder / COUNTS).read_text()))
        return Made(
            counts=counts,
            rejected=[file for folder in folders if (file := folder / REJECTED).exists()],
            merged=[self._area.folder(name) for name in merged],
        )

    def _of(self, table: str) -> list[LogSplit]:
        return [split for split in self._splits if split.table == table]

    def _folders(self, table: str) -> list[Path]:
        return [self._area.folder(split.name) for split in self._of(table)]

    def _asked(self, folder: Path) -> None:
        """What answers without users were asked about."""
        _write(folder / ASKED, self._scanner.asked(self._of("answers")))

    def _scan(self, split: LogSplit, folder: Path, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        asked = owners = None
        if self._needs_owners and split.table == "impressions":
            asked = _read(self._area.folder(ASKED) / ASKED)
        if self._needs_owners and split.table == "answers":
            owners = first_owners([_read(folder / OWNERS) for folder in self._folders("impressions")])
        matching: list[pa.Table] = []
        with BlockWriter(folder) as writer:
            for rows in self._scanner.scan(split, writer, quarantine, counts, owners=owners):
                if asked is not None:
                    matching.append(self._scanner.owners_in(rows, asked))
        if asked is not None:
            _write(folder / OWNERS, pa.concat_tables(matching))

    def _count_videos(self, folder: Path, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        """Counts the versions of videos; each process that builds a bucket makes the lookup again."""
        Lookup.of(read_block(self._folders("videos")), "video_id", quarantine, counts)

    def _bucket(self, number: int, folder: Path, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        tables = {name: read_block(self._folders(name), number) for name in ("impressions", "answers", "users")}
        build_bucket(self._build, tables, self._lookup(), self._buckets, folder, quarantine, counts)

    def _lookup(self) -> Lookup | None:
        if self._videos is None:
            self._videos = (Lookup.of(read_block(self._folders("videos")), "video_id", None, Counter()),)
        return self._videos[0]

    def _slices(self) -> list[int]:
        """Numbers of the time slices that have requests."""
        fragments = [file for name in DATASETS for file in self._fragments(name)]
        return sorted({number for file in fragments for number in slices_of(file, self._slice_ms)})

    def _fragments(self, dataset: str) -> list[Path]:
        return [self._area.folder(_bucket_name(number)) / f"{dataset}.arrow" for number in range(self._buckets)]

    def _merge(self, number: int, folder: Path) -> None:
        merge_slice(self._build, number, {name: self._fragments(name) for name in DATASETS}, folder)


def build_bucket(
    build: Build,
    tables: Mapping[str, pa.Table | None],
    videos: Lookup | None,
    buckets: int,
    folder: Path,
    quarantine: QuarantineFile,
    counts: Counter[str],
) -> None:
    """Writes the requests of a bucket as fragments.

    Args:
        tables: cleaned rows of the bucket by table, in log order; None: the log has no such table.
        buckets: number of all buckets.
    """
    impressions = tables["impressions"]
    assert impressions is not None
    users = Lookup.of(tables["users"], "user_id", quarantine, counts)
    bucket = Bucket(build, impressions, tables["answers"], users, videos, quarantine, counts)
    size = min(max(MERGED_REQUESTS // buckets, BATCH_REQUESTS[0]), BATCH_REQUESTS[1])
    slice_ms = build.output.slice_h * HOUR_MS
    for name, with_answers in DATASETS.items():
        requests = bucket.answered if with_answers else bucket.in_time_order
        schema = dataset_schema(build, answers=with_answers)
        rows = partial(_rows, bucket, requests, schema, answers=with_answers)
        write_fragment(folder / f"{name}.arrow", schema, bucket.timestamp_ms[requests], slice_ms, size, rows)


def merge_slice(build: Build, number: int, fragments: Mapping[str, list[Path]], folder: Path) -> None:
    """Writes the Parquet files of a time slice.

    Args:
        fragments: of all buckets in their order, by dataset.
    """
    for name, answers in DATASETS.items():
        (folder / name).mkdir()
        merge(fragments[name], folder / name, number, dataset_schema(build, answers=answers), build.output)


def _rows(bucket: Bucket, requests: Int, schema: pa.Schema, begin: int, end: int, *, answers: bool) -> pa.RecordBatch:
    return bucket.batch(requests[begin:end], schema, answers=answers)


def first_owners(found: list[pa.Table]) -> pa.Table:
    """The smallest user of each (request_id, video_id)."""
    keys = ["request_id", "video_id"]
    grouped = pa.concat_tables(found).group_by(keys).aggregate([("user_id", "min")])
    return grouped.select([*keys, "user_id_min"]).rename_columns([*keys, "user_id"])


def _bucket_name(number: int) -> str:
    return f"bucket-{number:05d}"


def as_unit(work: Work) -> Unit:
    """A unit that also writes its counts and rejected rows."""

    def run(folder: Path) -> None:
        counts: Counter[str] = Counter()
        with QuarantineFile(folder / REJECTED, counts) as quarantine:
            work(folder, quarantine, counts)
        (folder / COUNTS).write_text(json_file.text(counts))

    return run


def _write(file: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)


def _read(file: Path) -> pa.Table:
    with pa.OSFile(str(file)) as source:
        return pa.ipc.open_file(source).read_all()
