"""From configuration to a published dataset: the working directory, resuming, and the last step that joins partitions.

Beside the output lies `.NAME.build/`: per partition a working directory `PART.work/`, whose result becomes the folder
`PART/` by one rename. The partition that completes the set links all files into one tree and publishes it by one rename
as the output; whoever comes second finds it there. Nothing under the output's own name is ever incomplete.
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

from easq_rec.config.serialization import read_json, to_dict
from easq_rec.errors import UserError
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.layout import dataset_schema
from easq_rec.tools.builder.partition import COUNTS, DATASETS, build_partition
from easq_rec.tools.builder.scatter import Partition
from easq_rec.tools.builder.summary import check_balance, summary
from easq_rec.tools.builder.tables import connect, literal, open_tables

FORMAT = 1
"""Raised whenever the same config and inputs would give other files."""
DESCRIPTION = "build.json"
FINGERPRINT = "fingerprint.json"
POLL_S = 2.0
"""Pause before looking again whether partitions that other processes build are done."""


class Busy(UserError):
    """Another process is building the partition."""


def run(
    build: Build, *, base: Path, out: Path, partition: Partition, progress: Callable[[str], None], shared: bool = False
) -> str | None:
    """Builds a partition, publishes the output once all are there, and returns its summary; None: others are missing.

    Args:
        base: directory that paths of the config are relative to.
        shared: go on with partitions that nobody is at work on, and wait for the others, until the output is there.

    Raises:
        Busy: another process is building the partition, which is not shared.
        UserError: config and raw tables do not fit, or the output holds something else.
    """
    out = out.absolute()
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
        assert left, "all partitions are there, and the output is not"
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
        # Partitions that finish together take turns.
        with _locked(area / "publish.lock", wait=True):
            if not is_published(out, identity):
                missing = [p.name for p in siblings(partition) if _fingerprint_of(area / p.name) != identity]
                if missing:
                    progress(f"{partition.name}: done; the output appears once these are, too: {', '.join(missing)}")
                    return None
                _publish(build, area, out, partition, identity)
            shutil.rmtree(area, ignore_errors=True)
    except FileNotFoundError:
        # Another one has published and cleared the area since.
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
    """Builds a partition in the area, unless it lies there or in the output already."""
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
            (work / FINGERPRINT).write_text(json.dumps(identity))
        result = build_partition(build, base, partition, work, progress)
        (result / FINGERPRINT).write_text(json.dumps(identity))
        os.rename(result, finished)
        # Whoever completes the set may be clearing the area at this moment.
        shutil.rmtree(work, ignore_errors=True)


def siblings(partition: Partition) -> list[Partition]:
    return [Partition(index=index, of=partition.of) for index in range(partition.of)]


def fingerprint(build: Build, base: Path, partition: Partition) -> dict[str, Any]:
    """What a build depends on; resources do not belong to it. Raises UserError if the raw tables do not match."""
    config = to_dict(build)
    del config["engine"]
    with connect(build.engine, base) as connection:
        tables = open_tables(connection, build, base)
    files = {
        name: [
            [os.path.relpath(file, base), status.st_size, status.st_mtime_ns]
            for file in table.files
            for status in [os.stat(file)]
        ]
        for name, table in tables.items()
    }
    identity = {
        "format": FORMAT,
        # Users are dealt by the engine's hash, which another version may compute otherwise.
        "engine": duckdb.__version__,
        "partitions": partition.of,
        "inputs": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "config": config,
    }
    # In the form in which it will be read again: JSON has no tuples.
    return dict(json.loads(json.dumps(identity)))


def is_published(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the output holds this build; False if it is absent or empty, ValueError if it is neither."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_json(out / DESCRIPTION, "the description of a build") if (out / DESCRIPTION).is_file() else None
    if found is None:
        raise UserError(f"--out {out}: holds something else than a build: delete it or choose another directory")
    if found["fingerprint"] == identity:
        return True
    differing = [name for name in identity if found["fingerprint"].get(name) != identity[name]]
    raise UserError(
        f"--out {out}: holds another build ({', '.join(differing)} differ): delete it or choose another name"
    )


@contextmanager
def _locked(file: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds a lock, and says whether it does; the system releases it when the process ends, however it ends."""
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
    """Joins the finished partitions and renames the whole to the output."""
    tree = area / f"publish-{uuid.uuid4().hex[:8]}"
    counts: Counter[str] = Counter()
    for part in siblings(partition):
        counts.update(json.loads((area / part.name / COUNTS).read_text()))
        for name in (*DATASETS, "quarantine"):
            _link(area / part.name / name, tree / name)
    check_balance(counts)
    counts["requests.shared_ids"] = _shared_ids(build, area, tree / "requests")
    for name, answers in DATASETS.items():
        if not any((tree / name).rglob("*.parquet")):
            # A dataset without rows still has columns.
            schema = dataset_schema(build, answers=answers)
            pq.write_table(schema.empty_table(), tree / name / "empty.parquet")
    description = {
        "fingerprint": identity,
        "engine": dataclasses.asdict(build.engine),
        "counts": dict(sorted(counts.items())),
        "summary": summary(build, counts),
    }
    (tree / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    os.rename(tree, out)


def _shared_ids(build: Build, area: Path, requests: Path) -> int:
    """Requests with the id of another one: a request belongs to one user, and the log's ids may not know that."""
    if build.impressions.columns.request_id is None or not any(requests.rglob("*.parquet")):
        return 0
    with connect(build.engine, area / "temp") as connection:
        files = ", ".join(literal(str(file)) for file in sorted(requests.rglob("*.parquet")))
        query = f"SELECT count(*) - count(DISTINCT request_id) FROM read_parquet([{files}], hive_partitioning=false)"
        (found,) = connection.execute(query).fetchall()
    return int(found[0])


def _link(source: Path, target: Path) -> None:
    """The files of a tree, in another one as well: linked where the file system can, else copied."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*.parquet")):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)
