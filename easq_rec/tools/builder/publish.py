"""From configuration to a published dataset: working directory, resuming, and publishing.

Next to the output is `.NAME.build/`, the area in which all processes of a build work. The process that finds all units
done links their files into one tree and publishes it with one rename; a later process finds the output complete. The
output is never visible in an incomplete state.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from easq_rec import json_file
from easq_rec.config.serialization import read_json, to_dict
from easq_rec.errors import UserError
from easq_rec.tools.builder.area import Area, locked
from easq_rec.tools.builder.config import Build
from easq_rec.tools.builder.layout import dataset_schema
from easq_rec.tools.builder.quarantine import SCHEMA
from easq_rec.tools.builder.refusal import refuse_bad_tables
from easq_rec.tools.builder.splits import splits_of
from easq_rec.tools.builder.sql import file_literal
from easq_rec.tools.builder.stages import DATASETS, BuildStages, Made
from easq_rec.tools.builder.summary import TABLES, check_balance, summary
from easq_rec.tools.builder.tables import RawTable, connect, open_tables

if TYPE_CHECKING:
    from easq_rec.tools.builder.spark import SparkEngine

EngineName = Literal["local", "spark"]
FORMAT = 4
"""Must be raised when the same config and inputs would give other files."""
DESCRIPTION = "build.json"
PLAN = "buckets.json"
QUARANTINE = "quarantine"
MOST_BUCKETS = 4_096


def run(
    build: Build,
    *,
    base: Path,
    out: Path,
    progress: Callable[[str], None],
    shared: bool = False,
    engine: EngineName = "local",
) -> str:
    """Builds and publishes the output, unless it is there, and returns its summary.

    Args:
        engine: what runs the stages: processes of this project, or Spark.
        base: directory that paths of the config are relative to.
        shared: other processes, also on other machines, take part: all return when the output is published.

    Raises:
        UserError: config and raw tables do not match, the output directory has other content, or another process is
            building it that does not share the work.
    """
    # A link cannot be replaced by a rename, the directory that it leads to can.
    out = Path(os.path.realpath(out))
    area = out.parent / f".{out.name}.build"
    temp = Path(build.engine.temp or area) / f"{uuid.uuid4().hex[:8]}.temp"
    with connect(build.engine, temp) as connection, _spark(build, engine) as spark:
        tables = open_tables(connection, build, base, None if spark is None else spark.opener(connection))
        identity = fingerprint(build, base, tables)
        try:
            if not is_published(out, identity):
                area.mkdir(parents=True, exist_ok=True)
                with _joined(area, identity, build, tables, shared=shared, out=out) as buckets:
                    if spark is not None:
                        made = spark.run(area, splits_of(tables), tables, buckets)
                    else:
                        units = Area(area, progress)
                        made = BuildStages(
                            units, build, connection, temp, splits=splits_of(tables), buckets=buckets
                        ).run()
                    with locked(area / "publish.lock", how=fcntl.LOCK_EX):
                        if not is_published(out, identity):
                            _publish(build, area, out, made, tables, identity)
        except FileNotFoundError:
            # Another process has published the output and removed the area since.
            if not is_published(out, identity):
                raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    shutil.rmtree(area, ignore_errors=True)
    return str(json.loads((out / DESCRIPTION).read_text())["summary"])


@contextmanager
def _spark(build: Build, engine: EngineName) -> Iterator[SparkEngine | None]:
    if engine == "local":
        yield None
        return
    from easq_rec.tools.builder.spark import SparkEngine

    with SparkEngine(build) as spark:
        yield spark


@contextmanager
def _joined(
    area: Path, identity: Mapping[str, Any], build: Build, tables: Mapping[str, RawTable], *, shared: bool, out: Path
) -> Iterator[int]:
    """Joins the processes that work in an area, and yields the number of buckets that all of them use.

    The first one removes what another build left there. Raises UserError if a process builds that does not share.
    """
    with (area / "build.lock").open("a") as handle:
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _plan_of(area).get("identity") != identity:
                    for path in [path for path in area.iterdir() if path.name != "build.lock"]:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                    json_file.write(area / PLAN, {"identity": identity, "buckets": _buckets(build, tables)})
            except BlockingIOError:
                if not shared:
                    raise
            if shared:
                # Waits for a process that is preparing the area, or that builds alone.
                fcntl.flock(handle, fcntl.LOCK_SH)
        except BlockingIOError as error:
            raise UserError(
                f"{out} is being built by another process: wait for it, or give both of them --shared"
            ) from error
        if not (area / PLAN).exists():
            # Another process has published the output and removed the area.
            raise FileNotFoundError(area)
        plan = _plan_of(area)
        if plan.get("identity") != identity:
            raise UserError(f"{out} is being built by other processes from another config or log: wait for them")
        yield int(plan["buckets"])


def _buckets(build: Build, tables: Mapping[str, RawTable]) -> int:
    rows = tables["impressions"].rows
    return min(max(-(-rows // build.engine.bucket_impressions), 1), MOST_BUCKETS)


def _plan_of(area: Path) -> dict[str, Any]:
    try:
        found = json.loads((area / PLAN).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(build: Build, base: Path, tables: Mapping[str, RawTable]) -> dict[str, Any]:
    """Everything that a build's result depends on, without resources."""
    config = to_dict(build)
    del config["engine"]
    # How many bad rows are too many does not change the others, and can be raised after a build has failed.
    del config["max_bad_share"]
    for table in filter(None, map(config.get, TABLES)):
        del table["max_bad_share"]
        # Outputs of files stay the same builds that they were before there were tables of a catalog.
        if table["table"] is None:
            del table["table"]
    files = {name: table.identity(base) for name, table in tables.items()}
    identity = {
        "format": FORMAT,
        # The engine's hash assigns users to buckets and may differ between versions.
        "engine": duckdb.__version__,
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


def _publish(
    build: Build,
    area: Path,
    out: Path,
    made: Made,
    tables: Mapping[str, RawTable],
    identity: Mapping[str, Any],
) -> None:
    """Joins the results of all units and publishes the output by a rename."""
    tree = area / f"publish-{uuid.uuid4().hex[:8]}"
    counts = made.counts.copy()
    for table in tables.values():
        table.count_files(counts)
    for folder in made.merged:
        for name in DATASETS:
            _link(folder / name, tree / name)
    _join(made.rejected, tree / QUARANTINE)
    check_balance(counts)
    refuse_bad_tables(build, counts, [tree / QUARANTINE])
    counts["requests.shared_ids"] = _shared_ids(build, area, tree / "requests")
    for name, answers in DATASETS.items():
        if not any((tree / name).rglob("*.parquet")):
            # A dataset without rows needs a file with its columns.
            (tree / name).mkdir(parents=True, exist_ok=True)
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


def _join(files: list[Path], folder: Path) -> None:
    """Joins files of rejected rows."""
    folder.mkdir(parents=True)
    if files:
        with pq.ParquetWriter(folder / "part-00000.parquet", SCHEMA, compression="zstd") as writer:
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches():
                    writer.write_table(pa.Table.from_batches([batch], schema=SCHEMA))


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
