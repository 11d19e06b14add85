"""From configuration to a published dataset: working directory, resuming, and joining partitions.

Next to the output is `.NAME.build/` with a working directory `PART.work/` per partition, whose result is renamed to
`PART/`. The process that completes the set of partitions links all files into one tree and publishes it with one
rename; a later process finds the output complete. The output is never visible in an incomplete state.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from easq_rec import json_file
from easq_rec.config.serialization import read_json, to_dict
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.layout import dataset_schema
from easq_rec.tools.builder.partition import COUNTS, DATASETS, build_partition
from easq_rec.tools.builder.refusal import refuse_bad_tables
from easq_rec.tools.builder.scatter import Partition
from easq_rec.tools.builder.sql import file_literal
from easq_rec.tools.builder.summary import TABLES, check_balance, summary
from easq_rec.tools.builder.tables import connect, open_tables

FORMAT = 3
"""Must be raised when the same config and inputs would give other files."""
DESCRIPTION = "build.json"
FINGERPRINT = "fingerprint.json"
POLL_S = 2.0
"""Pause between checks for partitions that other processes build."""


class Busy(UserError):
    """Another process is building the partition."""


def run(
    build: Build, *, base: Path, out: Path, partition: Partition, progress: Callable[[str], None], shared: bool = False
) -> str | None:
    """Builds a partition, publishes the output once all are complete, and returns its summary; None: some are missing.

    Args:
        base: directory that paths of the config are relative to.
        shared: also build partitions that no process is building, and wait for the others, until the output exists.

    Raises:
        Busy: another process is building the partition, which is not shared.
        UserError: config and raw tables do not match, or the output directory has other content.
    """
    # A link cannot be replaced by a rename, the directory that it leads to can.
    out = Path(os.path.realpath(out))
    identity = fingerprint(build, base, partition)
    if not shared:
        return _run(build, base, out, partition, identity, progress)
    others = siblings(partition)
    left = others[partition.index :] + others[: partition.index]
    while True:
        for part in list(left):
            try:
                text = _run(build, base, out, part, identity, progress)
            except Busy:
                continue
            if text is not None:
                return text
            left.remove(part)
        assert left, "all partitions are complete, but the output is missing"
        time.sleep(POLL_S)


def _run(
    build: Build, base: Path, out: Path, partition: Partition, identity: dict[str, Any], progress: Callable[[str], None]
) -> str | None:
    area = out.parent / f".{out.name}.build"
    if is_published(out, identity):
        shutil.rmtree(area, ignore_errors=True)
        return _summary_of(out)
    try:
        area.mkdir(parents=True, exist_ok=True)
        _build(build, base, out, area, partition, identity, progress)
        # Processes that finish at the same time take turns.
        with _locked(area / "publish.lock", wait=True):
            if not is_published(out, identity):
                missing = [p.name for p in siblings(partition) if _fingerprint_of(area / p.name) != identity]
                if missing:
                    progress(f"{partition.name}: done; the output will appear after these: {', '.join(missing)}")
                    return None
                _publish(build, area, out, partition, identity)
            shutil.rmtree(area, ignore_errors=True)
    except FileNotFoundError:
        # Another process has published the output and removed the area since.
        if not is_published(out, identity):
            raise
    return _summary_of(out)


def _build(
    build: Build,
    base: Path,
    out: Path,
    area: Path,
    partition: Partition,
    identity: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Builds a partition in the area, unless the area or the output already has it."""
    with _locked(area / f"{partition.name}.lock") as mine:
        if not mine:
            raise Busy(f"{partition.name} of {out} is being built by another process: wait for it")
        finished = area / partition.name
        if is_published(out, identity) or _fingerprint_of(finished) == identity:
            return
        shutil.rmtree(finished, ignore_errors=True)
        work = area / f"{partition.name}.work"
        if _fingerprint_of(work) != identity:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            (work / FINGERPRINT).write_text(json_file.text(identity))
        result = build_partition(build, base, partition, work, progress)
        (result / FINGERPRINT).write_text(json_file.text(identity))
        os.rename(result, finished)
        # The process that completes the set may be removing the area now.
        shutil.rmtree(work, ignore_errors=True)


def siblings(partition: Partition) -> list[Partition]:
    return [Partition(index=index, of=partition.of) for index in range(partition.of)]


def fingerprint(build: Build, base: Path, partition: Partition) -> dict[str, Any]:
    """Everything that a build's result depends on, without resources. Raises UserError if the raw tables do not
    match."""
    config = to_dict(build)
    del config["engine"]
    # How many bad rows are too many does not change the others, and can be raised after a build has failed.
    del config["max_bad_share"]
    for table in filter(None, map(config.get, TABLES)):
        del table["max_bad_share"]
    with connect(build.engine, base) as connection:
        tables = open_tables(connection, build, base)
    files = {
        name: [
            [os.path.relpath(file, base), status.st_size, status.st_mtime_ns]
            for file in table.files.paths
            for status in [os.stat(file)]
        ]
        for name, table in tables.items()
    }
    identity = {
        "format": FORMAT,
        # The engine's hash assigns users to partitions and may differ between versions.
        "engine": duckdb.__version__,
        "partitions": partition.of,
        "inputs": hashlib.sha256(json_file.text(files).encode()).hexdigest(),
        "config": config,
    }
    # Converted to JSON values for comparison with a stored file: JSON has no tuples.
    return dict(json.loads(json_file.text(identity)))


def is_published(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the output is this build; False if it is missing or empty. Raises UserError for other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_json(out / DESCRIPTION, "the description of a build") if (out / DESCRIPTION).is_file() else None
    if found is None:
        raise UserError(f"--out {out}: is not a build: delete it or choose another directory")
    if found["fingerprint"] == identity:
        return True
    differing = [name for name in identity if found["fingerprint"].get(name) != identity[name]]
    raise UserError(f"--out {out}: is another build ({', '.join(differing)} differ): delete it or choose another name")


@contextmanager
def _locked(file: Path, *, wait: bool = False) -> Iterator[bool]:
    """Tries to lock a file and yields whether it succeeded; the system releases the lock when the process ends."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _summary_of(out: Path) -> str:
    return str(json.loads((out / DESCRIPTION).read_text())["summary"])


def _fingerprint_of(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / FINGERPRINT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _publish(build: Build, area: Path, out: Path, partition: Partition, identity: dict[str, Any]) -> None:
    """Joins the finished partitions and publishes the output by a rename."""
    tree = area / f"publish-{uuid.uuid4().hex[:8]}"
    counts: Counter[str] = Counter()
    for part in siblings(partition):
        counts.update(json.loads((area / part.name / COUNTS).read_text()))
        for name in (*DATASETS, "quarantine"):
            _link(area / part.name / name, tree / name)
    check_balance(counts)
    refuse_bad_tables(build, counts, [area / part.name / "quarantine" for part in siblings(partition)])
    counts["requests.shared_ids"] = _shared_ids(build, area, tree / "requests")
    for name, answers in DATASETS.items():
        if not any((tree / name).rglob("*.parquet")):
            # A dataset without rows needs a file with its columns.
            schema = dataset_schema(build, answers=answers)
            pq.write_table(schema.empty_table(), tree / name / "empty.parquet")
    description = {
        "fingerprint": identity,
        "engine": dataclasses.asdict(build.engine),
        "counts": dict(sorted(counts.items())),
        "summary": summary(build, counts),
    }
    (tree / DESCRIPTION).write_text(json_file.text(description, indent=2) + "\n")
    os.rename(tree, out)


def _shared_ids(build: Build, area: Path, requests: Path) -> int:
    """Number of requests with a duplicate id: a request belongs to one user, but the log's ids may span users."""
    if build.impressions.columns.request_id is None or not any(requests.rglob("*.parquet")):
        return 0
    with connect(build.engine, area / "temp") as connection:
        files = ", ".join(file_literal(str(file)) for file in sorted(requests.rglob("*.parquet")))
        query = f"SELECT count(*) - count(DISTINCT request_id) FROM read_parquet([{files}], hive_partitioning=false)"
        (found,) = connection.execute(query).fetchall()
    return int(found[0])


def _link(source: Path, target: Path) -> None:
    """Links the files of a tree into another tree, or copies them if the file system has no hard links."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*.parquet")):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)
