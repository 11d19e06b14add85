"""Builds one partition in stages; finished stages survive an interruption."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec import json_file
from easq_rec.tools.builder.bucket import Bucket, Lookup
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.layout import dataset_schema
from easq_rec.tools.builder.merge import merge, write_fragment
from easq_rec.tools.builder.quarantine import SCHEMA, QuarantineFile
from easq_rec.tools.builder.scatter import Partition, PartitionReader, read_bucket, remove_bucket
from easq_rec.tools.builder.tables import connect, open_tables

DATASETS = {"requests": False, "answers": True}
"""Dataset name: whether its candidates have answers."""
COUNTS = "counts.json"
BUCKETS = "buckets"
"""File that stores the number of buckets."""
MERGED_REQUESTS = 65_536
"""Requests that a merge holds in memory, over all buckets."""
BATCH_REQUESTS = (128, 1_024)
"""Minimum and maximum batch of a bucket: small batches cost time."""


def build_partition(
    build: Build, base: Path, partition: Partition, work: Path, progress: Callable[[str], None]
) -> Path:
    """Builds a partition in the directory `work` and returns the folder of the result: `requests/`, `answers/`,
    `quarantine/` and the counts. Continues from finished stages in `work`, which must belong to the same build.

    Args:
        base: directory that paths of the config are relative to.
    """
    temp = Path(build.engine.temp or work) / f"{work.name}-{os.getpid()}.temp"
    try:
        with connect(build.engine, temp) as connection:
            scan = PartitionReader(connection, build, open_tables(connection, build, base), partition, temp)
            dealt = _stage(work / "dealt", lambda folder, q, c: _deal(scan, folder, q, c))
            videos, listed = _videos(scan, work / "videos", partition)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    folders = [work / f"bucket-{number:04d}" for number in range(int((dealt / BUCKETS).read_text()))]
    progress(f"{partition.name}: dealt to {len(folders)} buckets of users")
    size = min(max(MERGED_REQUESTS // len(folders), BATCH_REQUESTS[0]), BATCH_REQUESTS[1])
    for number, folder in enumerate(folders):
        _stage(folder, partial(_bucket, build, dealt, number, size, videos))
        remove_bucket(dealt, number)
        progress(f"{partition.name}: bucket {number + 1} of {len(folders)}")
    result = work / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    _collect([dealt, listed, *folders], result, partition)
    for name, answers in DATASETS.items():
        (result / name).mkdir()
        schema = dataset_schema(build, answers=answers)
        fragments = [folder / f"{name}.arrow" for folder in folders]
        merge(fragments, result / name, partition, schema, build.output)
        progress(f"{partition.name}: {name} written")
    return result


def _deal(scan: PartitionReader, folder: Path, quarantine: QuarantineFile, counts: Counter[str]) -> None:
    buckets = scan.bucket_count()
    (folder / BUCKETS).write_text(str(buckets))
    scan.deal(folder, buckets, quarantine, counts)


def _stage(folder: Path, run: Callable[[Path, QuarantineFile, Counter[str]], None]) -> Path:
    """Runs a stage into a folder that is published atomically; does nothing if the folder exists."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        counts: Counter[str] = Counter()
        with QuarantineFile(unfinished / "quarantine.parquet", counts) as quarantine:
            run(unfinished, quarantine, counts)
        (unfinished / COUNTS).write_text(json_file.text(counts))
        os.rename(unfinished, folder)
    return folder


def _videos(scan: PartitionReader, folder: Path, partition: Partition) -> tuple[Lookup | None, Path]:
    """The table of videos, which is kept in memory and read again by every run. The first partition counts its rows."""
    folder.mkdir(exist_ok=True)
    counts: Counter[str] = Counter()
    with QuarantineFile(folder / "quarantine.parquet", counts) as quarantine:
        table = scan.videos(quarantine, counts)
        lookup = Lookup.of(table, "video_id", quarantine if partition.index == 0 else None, counts)
    (folder / COUNTS).write_text(json_file.text(counts))
    return lookup, folder


def _bucket(
    build: Build,
    dealt: Path,
    number: int,
    size: int,
    videos: Lookup | None,
    folder: Path,
    quarantine: QuarantineFile,
    counts: Counter[str],
) -> None:
    impressions = read_bucket(dealt, "impressions", number)
    assert impressions is not None
    users = Lookup.of(read_bucket(dealt, "users", number), "user_id", quarantine, counts)
    bucket = Bucket(build, impressions, read_bucket(dealt, "answers", number), users, videos, quarantine, counts)
    for name, answers in DATASETS.items():
        requests = bucket.answered if answers else bucket.in_time_order
        schema = dataset_schema(build, answers=answers)
        batches = bucket.batches(requests, size=size, answers=answers)
        write_fragment(folder / f"{name}.arrow", schema, bucket.timestamp_ms[requests], batches)


def _collect(stages: list[Path], result: Path, partition: Partition) -> None:
    """Sums up the counts and joins the quarantines of all stages."""
    counts: Counter[str] = Counter()
    for stage in stages:
        counts.update(json.loads((stage / COUNTS).read_text()))
    (result / COUNTS).write_text(json_file.text(counts, sort_keys=True))
    files = [file for stage in stages if (file := stage / "quarantine.parquet").exists()]
    (result / "quarantine").mkdir()
    if files:
        with pq.ParquetWriter(
            result / "quarantine" / f"{partition.name}.parquet", SCHEMA, compression="zstd"
        ) as writer:
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches():
                    writer.write_table(pa.Table.from_batches([batch], schema=SCHEMA))
