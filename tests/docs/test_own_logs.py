"""The small example in docs/how-to/own-logs.md works as written."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Warm
from tests.docs.pages import DOCS, run_command, shown_commands, shown_files


def rows(dataset: Path) -> list[dict[str, object]]:
    return [row for file in dataset.rglob("*.parquet") for row in pq.read_table(file).to_pylist()]


@pytest.mark.integration
def test_the_five_steps_work_as_written(tmp_path: Path, warm: Warm) -> None:
    text = (DOCS / "how-to" / "own-logs.md").read_text()
    files, commands = shown_files(text), shown_commands(text)
    assert sorted(files) == ["answers.csv", "impressions.csv", "logs.toml", "users.csv", "videos.csv"]
    assert len(commands) == 5
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for command in commands:
        run_command(command, tmp_path, warm)
    requests = [row["candidates"] for row in rows(tmp_path / "data" / "requests")]
    assert len(requests) == 6 and sum(map(len, requests)) == 13
    answered = [candidate for row in rows(tmp_path / "data" / "answers") for candidate in row["candidates"]]
    assert sorted(c["answer"] for c in answered if c["answer"] is not None) == [0, 2, 2]
    assert len(pq.read_table(tmp_path / "scores.parquet")) == 13
    assert len(list((tmp_path / "inspect").glob("*.png"))) >= 5
