"""The example of docs/data.md, carried out as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import REPOSITORY

GUIDE = REPOSITORY / "docs" / "data.md"


def example() -> tuple[dict[str, str], list[str]]:
    """(content by file name, command lines) of the five steps."""
    text = GUIDE.read_text().split("## Your own logs in five steps")[1].split("\n## ")[0]
    files = dict(re.findall(r"^`([\w.]+)`\n\n```\n(.*?)```$", text, re.MULTILINE | re.DOTALL))
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    return files, commands


@pytest.mark.integration
def test_the_five_steps(tmp_path: Path) -> None:
    files, commands = example()
    assert sorted(files) == ["answers.csv", "impressions.csv", "logs.toml", "users.csv", "videos.csv"]
    assert len(commands) == 5
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    bin_dir = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr and "W1" not in done.stderr, done.stderr
    requests = [
        row for file in (tmp_path / "data" / "requests").rglob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    assert len(requests) == 6 and sum(len(row["candidates"]) for row in requests) == 13
    answered = [
        row for file in (tmp_path / "data" / "answers").rglob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    assert sorted(c["answer"] for row in answered for c in row["candidates"] if c["answer"] is not None) == [0, 2, 2]
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert len(scores) == 13
    assert len(list((tmp_path / "inspect").glob("*.png"))) >= 5
