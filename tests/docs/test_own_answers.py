"""The example with five stars in docs/how-to/own-answers.md works as written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from easq_rec.config.answer_scale import FIVE_STARS
from easq_rec.config.schema_file import parse_schema
from easq_rec.run_directory.config_file import load_config
from tests.conftest import Warm
from tests.docs.pages import DOCS, run_command, shown_commands, shown_files

TEXT = (DOCS / "how-to" / "own-answers.md").read_text()


def test_both_files_declare_the_same_scale() -> None:
    files = shown_files(TEXT)
    assert sorted(files) == ["logs.toml", "make_logs.py", "schema.toml"]
    assert parse_schema(files["schema.toml"], "schema.toml").answers == FIVE_STARS


@pytest.mark.integration
def test_the_four_steps_work_as_written(tmp_path: Path, warm: Warm) -> None:
    for name, content in shown_files(TEXT).items():
        (tmp_path / name).write_text(content)
    printed = [run_command(command, tmp_path, warm) for command in shown_commands(TEXT)]
    answered = [
        candidate["answer"]
        for file in (tmp_path / "data" / "answers").rglob("*.parquet")
        for row in pq.read_table(file).to_pylist()
        for candidate in row["candidates"]
        if candidate["answer"] is not None
    ]
    assert set(answered) == {1, 2, 3, 4, 5}
    found = json.loads((tmp_path / "inspect" / "report.json").read_text())["questionnaire"]
    assert found["answers"] == {name: answered.count(code) for name, code in FIVE_STARS.codes.items()}
    shown = [line.strip() for line in TEXT.splitlines() if line.startswith("      ") and line.strip()[0].isdigit()]
    assert len(shown) == 5 and all(line in printed[2] for line in shown)
    assert "answer AUC" in printed[-1]
    assert load_config(tmp_path / "run").schema.answers == FIVE_STARS
