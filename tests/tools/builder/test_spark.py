"""A build by Spark: the files of a local build, also if a worker is killed, and what it says without Spark."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from easq_rec import doctor
from easq_rec.errors import UserError
from easq_rec.tools.builder import spark, splits
from easq_rec.tools.builder.publish import run
from tests.tools.builder.logs import build_of, config, random_log, read_rows, run_build, write_log

pytestmark = [
    pytest.mark.integration,
    # From inside PySpark.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One session for all tests: it takes seconds to start."""
    if problems := doctor.spark_problems():
        pytest.skip("; ".join(problem.what for problem in problems))
    with spark._session(build_of(config(engine={"threads": 2}))) as opened, mock.patch.object(opened, "stop"):
        yield


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


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    write_log(tmp_path, random_log(13, impressions=20))
    with pytest.raises(UserError, match=r"--engine spark: there is no Java: install a runtime of Java 17"):
        built(tmp_path, config(), "out")
