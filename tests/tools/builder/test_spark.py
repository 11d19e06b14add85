"""A build by Spark, of files and of Hive tables: the files of a local build, also if a worker is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec import doctor
from easq_rec.errors import UserError
from easq_rec.tools.builder import spark, splits
from easq_rec.tools.builder.publish import run
from easq_rec.tools.builder.sql import identifier
from easq_rec.tools.builder.tables import wanted
from tests.tools.builder.logs import build_of, config, merge, random_log, read_rows, run_build, write_log

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.integration,
    # From inside PySpark.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]


DEFAULTS = """
spark.sql.warehouse.dir {folder}/warehouse
spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:;databaseName={folder}/metastore;create=true
spark.hadoop.hive.exec.dynamic.partition.mode nonstrict
spark.driver.extraJavaOptions -Dderby.system.home={folder}
spark.sql.shuffle.partitions 2
"""


@pytest.fixture(scope="module", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all tests, since it takes seconds to start, with a Hive metastore."""
    if problems := doctor.spark_problems():
        pytest.skip("; ".join(problem.what for problem in problems))
    folder = tmp_path_factory.mktemp("spark")
    (folder / "spark-defaults.conf").write_text(DEFAULTS.format(folder=folder))
    values = config(users={"path": None, "table": "any"}, engine={"threads": 2})
    with mock.patch.dict(os.environ, SPARK_CONF_DIR=str(folder)), spark._session(build_of(values)) as opened:
        opened.sql("CREATE DATABASE logs")
        with mock.patch.object(opened, "stop"):
            yield opened


def built(folder: Path, values: dict[str, Any], out: str) -> Path:
    """Builds the log in a folder by Spark, in as many pieces as `run_build` with `divided`."""
    build = build_of(values | {"engine": {"bucket_impressions": 20, "threads": 2}})
    with mock.patch.object(splits, "SPLIT_ROWS", 60):
        run(build, base=folder, out=folder / out, progress=lambda line: None, engine="spark")
    return folder / out


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.parquet")}


def test_spark_writes_the_files_of_a_local_build(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(10, impressions=150))
    local, out = run_build(tmp_path, config(), divided=True, out="local"), built(tmp_path, config(), "spark")
    assert contents(local) == contents(out) and read_rows(out / "requests")
    counts = [(folder / "build.json").read_text().partition('"counts"')[2] for folder in (local, out)]
    assert counts[0] == counts[1]
    assert not (tmp_path / ".spark.build").exists()


def test_a_killed_worker_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log whose answers do not name their users, which takes another job."""
    write_log(tmp_path, random_log(11, impressions=120))
    values = config(answers={"columns": {"user_id": None}})
    local = run_build(tmp_path, values, divided=True, out="local")
    monkeypatch.setattr(spark, "Job", DyingJob)
    out = built(tmp_path, values, "spark")
    assert (tmp_path / "died").exists(), "no worker was killed"
    assert contents(local) == contents(out)


class DyingJob(spark.Job):
    """Kills the first worker that has merged a slice."""

    def merge(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        mark = Path(self.area).parents[1] / "died"
        for row in super().merge(batches):
            if row["kind"][0].as_py() == spark.FOLDER and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield row


def test_errors_of_tasks_are_readable(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(12, impressions=100))
    file = tmp_path / "impressions.parquet"
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"impressions.parquet, row group 0: cannot be read") as error:
        built(tmp_path, config(), "out")
    assert "\n" not in str(error.value)


def test_hive_tables_give_the_files_of_their_parquet_files(tmp_path: Path, session: SparkSession) -> None:
    """Tables with and without partitions, of types that Parquet writers use, and a table in files beside them."""
    log = random_log(14, impressions=150)
    write_log(tmp_path, log)
    for name in ("impressions", "answers", "users"):
        session.read.parquet(str(tmp_path / f"{name}.parquet")).createOrReplaceTempView(f"raw_{name}")
    session.sql(
        "CREATE TABLE logs.impressions (uid DECIMAL(20, 0), vid BIGINT, at TIMESTAMP, watched DOUBLE, rid BIGINT, "
        "liked BOOLEAN, rate FLOAT, slot INT) PARTITIONED BY (`the.day` STRING) STORED AS PARQUET"
    )
    session.sql(
        "INSERT INTO logs.impressions SELECT /*+ REPARTITION(3) */ uid, vid, timestamp_millis(at), watched, rid, "
        "liked, rate, slot, CAST(slot % 2 AS STRING) FROM raw_impressions"
    )
    session.sql("CREATE TABLE logs.answers STORED AS PARQUET AS SELECT /*+ REPARTITION(2) */ * FROM raw_answers")
    session.sql("CREATE TABLE logs.users USING parquet AS SELECT * FROM raw_users")
    changes = {"impressions": {"time_unit": "timestamp", "features": {"day": {"column": "the.day"}}}}
    files, tables = config(**changes), config(**changes)
    for name in ("impressions", "answers", "users"):
        where = session.sql(f"DESCRIBE FORMATTED logs.{name}").where("col_name = 'Location'").collect()[0][1]
        merge(files, {name: {"path": where.removeprefix("file:")}})
        merge(tables, {name: {"path": None, "table": f"logs.{name}"}})
    local, out = run_build(tmp_path, files, divided=True, out="local"), built(tmp_path, tables, "spark")
    assert contents(local / "requests") == contents(out / "requests") and read_rows(out / "requests")
    assert contents(local / "answers") == contents(out / "answers")
    counts = [json.loads((folder / "build.json").read_text())["counts"] for folder in (local, out)]
    assert counts[0] == counts[1]
    rejected = [
        sorted((row["reason"], str(row["place"]).removeprefix("file:")) for row in read_rows(folder / "quarantine"))
        for folder in (local, out)
    ]
    assert rejected[0] == rejected[1]


def test_tables_without_numbered_rows_are_in_the_order_of_their_content(tmp_path: Path, session: SparkSession) -> None:
    """Answers do not name their users, and a worker is killed."""
    write_log(tmp_path, random_log(15, impressions=100))
    values = config(answers={"columns": {"user_id": None}})
    outs = []
    for number, parts in enumerate((1, 4)):
        changes: dict[str, Any] = {}
        for name in ("impressions", "answers", "users", "videos"):
            rows = session.read.parquet(str(tmp_path / f"{name}.parquet")).repartition(parts)
            rows.write.saveAsTable(f"logs.{name}_{number}", format="orc")
            changes[name] = {"path": None, "table": f"logs.{name}_{number}"}
        merge(values, changes)
        with mock.patch.object(spark, "Job", DyingJob if number else spark.Job):
            outs.append(built(tmp_path, values, f"spark{number}"))
    assert (tmp_path / "died").exists(), "no worker was killed"
    # Files whose rows have the documented order.
    sorted_files = config(answers={"columns": {"user_id": None}})
    for name, source in build_of(sorted_files).sources.items():
        names = dict.fromkeys(column for _, column, _ in wanted(source))
        cells = ", ".join(f"'{column}', {shown(identifier(column))}" for column in names)
        file = str(tmp_path / f"{name}.parquet")
        rows = duckdb.sql(f"SELECT * FROM '{file}' ORDER BY CAST(json_object({cells}) AS VARCHAR)").to_arrow_table()
        pq.write_table(rows, file)
    local = run_build(tmp_path, sorted_files, divided=True, out="local")
    for out in outs:
        assert contents(local / "requests") == contents(out / "requests") and read_rows(out / "requests")
        assert contents(local / "answers") == contents(out / "answers") and read_rows(out / "answers")


def shown(column: str) -> str:
    """NaN is a text in JSON."""
    if column not in ('"watched"', '"rate"', '"score"'):
        return column
    return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json(CAST({column} AS VARCHAR)) END"


def test_errors_of_tables_are_readable(tmp_path: Path, session: SparkSession) -> None:
    write_log(tmp_path, random_log(16, impressions=20))
    session.sql("CREATE TABLE logs.nobody (uid BIGINT, region INT) STORED AS PARQUET")
    session.conf.set("spark.sql.catalog.ice", "org.apache.iceberg.spark.SparkCatalog")
    names = {"answers": "logs.none", "users": "ice.logs.users", "videos": "far.logs.videos"}
    with pytest.raises(UserError) as error:
        built(tmp_path, config(**{name: {"path": None, "table": table} for name, table in names.items()}), "out")
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines[0].startswith("answers.table: Spark's catalog has no table 'logs.none': give its full name")
    assert lines[1].startswith("users.table: Spark cannot read table 'ice.logs.users': ")
    assert lines[1].endswith("give the jar of its format to spark-submit by --packages or --jars")
    far = "videos.table: Spark has no catalog 'far' for table 'far.logs.videos': set spark.sql.catalog.far"
    assert lines[2:] == [far]
    with pytest.raises(UserError) as error:
        built(tmp_path, config(users={"path": None, "table": "logs.nobody"}), "out")
    missing = [
        f"users.{place}: no column {name!r} in table 'logs.nobody'; it has: uid, region"
        for place, name in (("columns.valid_from", "since"), ("features.likes", "likes"))
    ]
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == missing


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    write_log(tmp_path, random_log(13, impressions=20))
    with pytest.raises(UserError, match=r"--engine spark: there is no Java: install a runtime of Java 17"):
        built(tmp_path, config(), "out")
