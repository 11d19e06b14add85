"""Every command in docs/tutorial.md works as written, on a smaller world."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Warm
from tests.docs.pages import DOCS, run_command, shown_commands, shown_files

SMALLER = {"--requests 20000 --users 2000 --videos 4000": "--requests 2000 --users 300 --videos 500"}
"""Replacements in the commands, to keep the test short."""


@pytest.mark.integration
def test_the_tutorial_works_as_written(tmp_path: Path, warm: Warm) -> None:
    text = (DOCS / "tutorial.md").read_text()
    files, commands = shown_files(text), shown_commands(text)
    assert sorted(files) == ["logs.toml", "make_logs.py"]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for full, small in SMALLER.items():
        assert any(full in command for command in commands), full
        commands = [command.replace(full, small) for command in commands]
    printed = {command: run_command(command, tmp_path, warm) for command in commands}
    for name in ("data build", "data inspect", "train", "evaluate", "compare", "report", "score"):
        assert any(command.startswith(f"easq-rec {name}") for command in commands), name
    assert "answer AUC" in printed["easq-rec compare runs/aligned runs/main_only"]
    assert "finished" in printed["easq-rec runs list"]
    assert len(pq.read_table(tmp_path / "scores.parquet")) == 2_000 * 12
    assert "<svg" in (tmp_path / "report.html").read_text()
