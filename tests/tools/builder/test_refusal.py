"""No output if a table was read wrongly: no row of it is kept, or many rows are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.builder import tiny

ANSWERS = {
    "path": "answers.csv",
    "time_unit": "s",
    "columns": {"user_id": "user", "video_id": "video", "timestamp": "at", "answer": "said"},
}


def build(folder: Path, bad: int, good: int, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    rows = [{**tiny.ROW, "video": n, "watched": "bad" if n < bad else 8} for n in range(bad + good)]
    tiny.write_rows(folder / "imp.csv", rows)
    return tiny.build(folder, tiny.config(**changes))


def test_a_table_without_a_good_row_is_refused_with_reason_example_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:
        build(tmp_path, 3, 0, max_bad_share=0.05)
    assert "\n" not in str(raised.value)
    example = json.dumps({**{k: str(v) for k, v in tiny.ROW.items()}, "video": "0", "watched": "bad"})
    example = example.replace(": ", ":").replace(", ", ",")
    assert str(raised.value).startswith(
        "impressions: none of the 3 rows is kept; most often (3 rows): watched is not a number; as {"
    )
    assert sorted(json.loads(example)) == sorted(json.loads(str(raised.value).split("; as ")[1].split(" in /")[0]))
    assert str(raised.value).endswith(f" in {tmp_path}/imp.csv; to accept it, set impressions.max_bad_share = 1")
    assert not (tmp_path / "out").exists()
    rows, counts = build(tmp_path, 3, 0, max_bad_share=1.0)
    assert not rows and counts["impressions.kept"] == 0


def test_the_share_of_bad_rows_is_bounded_for_all_and_for_each_table(tmp_path: Path) -> None:
    message = r"impressions: 2 of 21 rows cannot be read, more than max_bad_share = 0.05; most often \(2 rows\): watch"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, 2, 19, max_bad_share=0.05)
    # Raising the bound does not build again, and each table may have its own.
    rows, _ = build(tmp_path, 2, 19, max_bad_share=0.05, impressions={"max_bad_share": 0.1})
    assert len(rows) == 19
    (tmp_path / "few").mkdir()
    rows, _ = build(tmp_path / "few", 1, 19, max_bad_share=0.05)
    assert len(rows) == 19


def test_rows_that_a_rule_drops_are_not_bad(tmp_path: Path) -> None:
    rows = [{**tiny.ROW, "at": tiny.START_S} for _ in range(20)]
    tiny.write_rows(tmp_path / "imp.csv", rows)
    found, counts = tiny.build(tmp_path, tiny.config(max_bad_share=0.0))
    assert len(found) == 1 and tiny.reasons(counts) == {"duplicate": 19}


@pytest.mark.parametrize("divided", [False, True])
def test_the_share_is_that_of_all_splits_together(tmp_path: Path, divided: bool) -> None:
    from tests.tools.builder.logs import run_build

    tiny.write_rows(tmp_path / "imp.csv", [{**tiny.ROW, "user": "" if n == 0 else n} for n in range(30)])
    out = run_build(tmp_path, tiny.config(max_bad_share=0.05), divided=divided)
    assert json.loads((out / "build.json").read_text())["counts"]["impressions.kept"] == 29


def test_answers_that_are_all_early_are_refused_and_orphans_are_told(tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "imp.csv", [tiny.ROW])
    values = tiny.config(answers=ANSWERS, max_bad_share=0.05, questionnaire={"options": {"yes": 2}})
    answer = {"user": 7, "video": 101, "at": tiny.START_S - 5, "said": "yes"}
    tiny.write_rows(tmp_path / "answers.csv", [answer])
    with pytest.raises(ValueError, match=r"answers: none of the 1 rows is kept; .*: before its impression; as "):
        tiny.build(tmp_path, values)
    tiny.write_rows(tmp_path / "answers.csv", [{**answer, "video": 5}])
    _, counts = tiny.build(tmp_path, values)
    assert counts["answers.kept"] == 0 and counts["impressions.kept"] == 1
    said = json.loads((tmp_path / "out" / "build.json").read_text())["summary"]
    assert "no answer is kept, since none belongs to an impression of the log" in said


def test_the_summary_counts_files(tmp_path: Path) -> None:
    (tmp_path / "imp").mkdir()
    for name in "ab":
        tiny.write_rows(tmp_path / "imp" / f"{name}.csv", [{**tiny.ROW, "video": ord(name)}])
    (tmp_path / "imp" / "c.csv").write_text("")
    tiny.build(tmp_path, tiny.config(impressions={"path": "imp"}))
    said = json.loads((tmp_path / "out" / "build.json").read_text())["summary"]
    assert "impressions: 2 rows = 2 kept + 0 quarantined, from 3 files (1 without content)" in said
