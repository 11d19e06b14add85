"""Bad data in a run of two ranks.

The run ends with an error that names the place, or continues without the bad rows. No rank hangs.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Warm
from tests.integration.conftest import metrics

Train = Callable[..., subprocess.CompletedProcess[str]]

BAD = (10, 700, 1_400)
"""Rows with a null user; the last one is held out."""
GROUP = 200


@pytest.fixture(scope="module")
def bad_world(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world in row groups of 200, with three bad rows."""
    directory = tmp_path_factory.mktemp("bad") / "data"
    shutil.copytree(world / "answers", directory / "answers")
    table = pa.concat_tables(pq.read_table(file) for file in sorted((world / "requests").glob("*.parquet")))
    users = table["user_id"].to_pylist()
    for row in BAD:
        users[row] = None
    table = table.set_column(table.column_names.index("user_id"), "user_id", pa.array(users, pa.int64()))
    (directory / "requests").mkdir()
    pq.write_table(table, directory / "requests" / "part.parquet", row_group_size=GROUP)
    return directory


@pytest.mark.integration
def test_a_bad_row_ends_all_ranks_with_an_error_that_names_its_place(
    train: Train, bad_world: Path, tmp_path: Path
) -> None:
    done = train(tmp_path / "run", "--data.path", str(bad_world), ranks=2, check=False)
    assert done.returncode != 0
    place = r"part\.parquet, row group \d, row (10|100|0), column user_id: found null, expected an integer"
    assert re.search(place, done.stdout + done.stderr), done.stdout + done.stderr


@pytest.mark.integration
def test_a_damaged_row_group_ends_all_ranks(train: Train, world: Path, bad_world: Path, tmp_path: Path) -> None:
    """Only one rank reads the damaged row group, while the other rank trains."""
    shutil.copytree(world / "answers", tmp_path / "data" / "answers")
    table = pa.concat_tables(pq.read_table(file) for file in sorted((world / "requests").glob("*.parquet")))
    file = tmp_path / "data" / "requests" / "part.parquet"
    file.parent.mkdir()
    pq.write_table(table, file, row_group_size=GROUP)
    chunk = pq.read_metadata(file).row_group(3).column(0)
    content = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)
    arguments = ("--data.path", str(tmp_path / "data"), "--data.shuffle-row-groups", "1")
    done = train(tmp_path / "run", *arguments, ranks=2, check=False)
    assert done.returncode != 0
    assert f"{file}, row group 3: cannot be read" in done.stdout + done.stderr


@pytest.mark.integration
def test_the_run_continues_when_bad_rows_are_quarantined(
    train: Train, bad_world: Path, tmp_path: Path, warm: Warm
) -> None:
    run_dir = tmp_path / "run"
    done = train(
        run_dir,
        *("--data.path", str(bad_world), "--data.on-bad-rows", "quarantine", "--trainer.epochs", "2"),
        ranks=2,
    )
    assert f"3 bad rows were set aside in {run_dir}/quarantine, with the reasons" in done.stdout
    rows = [row for file in (run_dir / "quarantine").iterdir() for row in pq.read_table(file).to_pylist()]
    place = [(row["bad_row_group"] * GROUP + row["bad_row"], row["bad_column"]) for row in rows]
    assert sorted(place) == [(row, "user_id") for row in BAD]
    assert sorted(row["request_id"] for row in rows) == list(BAD)
    logged = metrics(run_dir)
    assert logged[-1]["quarantined_rows"] == 2, "only the bad rows of the training period count"
    final = metrics(run_dir, "final")[0]
    assert final["requests"] == 1_500 - 1_200 - 1
    # Later evaluations in separate processes omit the same row, also where users are told apart by all other rows.
    out, counted = tmp_path / "evaluated.json", {}
    for users in ("all", "known", "new"):
        evaluate = ("evaluate", "--run", str(run_dir), "--users", users, "--resamples", "9", "--out", str(out))
        warm.run(warm.python, "-m", "easq_rec.cli", *evaluate)
        counted[users] = json.loads(out.read_text())["requests"]
    assert counted["all"] == final["requests"] == counted["known"] + counted["new"]
    assert counted["known"] and counted["new"]
