"""Partitions of users: together they equal a build without partitions, and their files are in time order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tools.builder.logs import (
    HOUR_MS,
    Row,
    build_of,
    config,
    quarantined,
    random_log,
    read_rows,
    run_build,
    sessions,
    write_log,
)

COMMAND = [sys.executable, "-m", "easq_rec.cli", "data", "build"]
REPOSITORY = Path(__file__).parents[3]


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["timestamp_ms"], row["user_id"], row["candidates"][0]["slot"]))


@pytest.mark.parametrize("values", [config(), sessions()], ids=["request ids", "sessions"])
def test_three_partitions_give_the_same_rows_as_one(tmp_path: Path, values: dict[str, Any]) -> None:
    write_log(tmp_path, random_log(10, impressions=200))
    one, three = run_build(tmp_path, values, out="one"), run_build(tmp_path, values, parts=3, out="three")
    for name in ("requests", "answers"):
        assert in_order(read_rows(one / name)) == in_order(read_rows(three / name))
    assert quarantined(one) == quarantined(three)
    files = {file.name.split("-", 1)[1].rsplit("-", 1)[0] for file in (three / "requests").rglob("*.parquet")}
    assert files == {"part-1-of-3", "part-2-of-3", "part-3-of-3"}


def test_the_rows_do_not_depend_on_the_number_of_buckets(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(11))
    few = run_build(tmp_path, config(engine={"bucket_impressions": 1_000}), out="few")
    many = run_build(tmp_path, config(engine={"bucket_impressions": 2}), out="many")
    for name in ("requests", "answers"):
        assert in_order(read_rows(few / name)) == in_order(read_rows(many / name))


def test_one_partition_is_in_time_order(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(12, impressions=200))
    out = run_build(tmp_path, config(output={"slice_h": 1}))
    for name in ("requests", "answers"):
        times = [row["timestamp_ms"] for row in read_rows(out / name)]
        assert times == sorted(times)
    assert sorted(folder.name for folder in (out / "requests").iterdir()) == [
        "20231114T22", "20231114T23", "20231115T00", "20231115T01",
    ]  # fmt: skip
    for file in (out / "requests").rglob("*.parquet"):
        times = pq.read_table(file)["timestamp_ms"].to_pylist()
        assert len({time // HOUR_MS for time in times}) == 1, "a file contains requests of one time slice only"
        sizes = [pq.read_metadata(file).row_group(n).num_rows for n in range(pq.read_metadata(file).num_row_groups)]
        assert len(sizes) <= 2 and set(sizes[:-1]) <= {3}
        assert pq.read_metadata(file).row_group(0).column(0).compression == "ZSTD"


def test_row_groups_of_several_partitions_start_in_time_order(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(13, impressions=300))
    values = config(output={"slice_h": 24, "file_row_groups": None, "hive": True}, engine={"bucket_impressions": 1_000})
    out = run_build(tmp_path, values, parts=3)
    files = sorted((out / "requests").rglob("*.parquet"))
    firsts = [pq.read_table(file)["timestamp_ms"][0].as_py() for file in files]
    assert firsts == sorted(firsts)
    assert len(files) > 20
    assert all(pq.read_metadata(file).num_row_groups == 1 for file in files)
    assert {file.parent.name for file in files} == {"date=2023-11-14", "date=2023-11-15"}


def test_hours_are_hive_folders(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(13))
    out = run_build(tmp_path, config(output={"slice_h": 6, "hive": True}))
    folders = sorted(str(file.parent.relative_to(out / "requests")) for file in (out / "requests").rglob("*.parquet"))
    assert set(folders) == {"date=2023-11-14/hour=18", "date=2023-11-15/hour=00"}


def test_the_output_is_published_after_the_last_partition(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(14))
    from easq_rec.tools.builder.publish import run
    from easq_rec.tools.builder.scatter import Partition

    said: list[str] = []
    build, out = build_of(config()), tmp_path / "out"
    for index in (2, 0):
        text = run(build, base=tmp_path, out=out, partition=Partition(index=index, of=3), progress=said.append)
        assert text is None and not out.exists()
    assert said[-1] == "part-1-of-3: done; the output will appear after these: part-2-of-3"
    text = run(build, base=tmp_path, out=out, partition=Partition(index=1, of=3), progress=said.append)
    assert text is not None and out.is_dir()
    assert not (tmp_path / ".out.build").exists()


def test_concurrent_replicas_publish_one_output(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(15))
    (tmp_path / "logs.toml").write_text(TOML)
    replicas = [
        subprocess.Popen(
            [
                *COMMAND,
                "--config",
                str(tmp_path / "logs.toml"),
                "--out",
                str(tmp_path / "out"),
                "--partition",
                f"{n}/3",
            ],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in (1, 2, 3)
    ]
    ends = [(*replica.communicate(timeout=60), replica.returncode) for replica in replicas]
    assert [code for _, _, code in ends] == [0, 0, 0], ends
    expected = run_build(
        tmp_path, config(answers=None, users=None, videos={"columns": {"valid_from": None}}), out="one"
    )
    requests = read_rows(tmp_path / "out" / "requests")
    assert len(requests) == len(read_rows(expected / "requests"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


TOML = """
max_bad_share = 1.0
[impressions]
path = "impressions.parquet"
[impressions.columns]
user_id = "uid"
video_id = "vid"
timestamp = "at"
watch = "watched"
request_id = "rid"
[impressions.outcomes]
like = "liked"
rate = { column = "rate", type = "float" }
[impressions.features]
slot = "slot"
[videos]
path = "videos.parquet"
history = ["author_id"]
[videos.columns]
video_id = "vid"
duration = "length"
[videos.features]
author_id = "maker"
"""
