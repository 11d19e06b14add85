"""The TOML file and the command. All errors are listed at once, each with its place and a remedy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.cli import main as cli
from easq_rec.tools.builder.config import AnswerRules, Engine, Field, Output, Requests
from easq_rec.tools.builder.parse import load, parse
from tests.tools.builder.logs import config, merge, random_log, read_rows, run_build, sessions, write_log
from tests.tools.builder.test_replicas import TOML


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ValueError) as raised:
        parse(config(**changes), "logs.toml")
    first, *lines = str(raised.value).splitlines()
    assert first == "logs.toml does not describe a build:"
    return [line.strip() for line in lines]


def test_a_valid_file_is_parsed() -> None:
    build = parse(config(), "logs.toml")
    assert build.impressions.outcomes == {
        "like": Field(column="liked", type="flag"),
        "rate": Field(column="rate", type="float"),
    }
    assert build.users is not None and build.users.features["region"] == Field(column="region", type="id")
    assert build.videos is not None and build.videos.history == ("author_id",)
    assert build.requests.session_gap_s == 1_800.0
    assert parse(sessions(requests={"session_gap_s": 60}), "x").requests.session_gap_s == 60.0


def test_all_problems_are_listed() -> None:
    values = config(idss={"user": "text"}, output={"row_group": "many", "hive": 1}, ids={"user": "number"})
    del values["impressions"]["path"], values["answers"]["columns"]["answer"]
    values["impressions"]["columns"]["timestamps"] = "at"
    values["users"]["features"]["age"] = {"column": "age", "kind": "id"}
    values["videos"]["history"] = "author_id"
    values["requests"] = 3
    with pytest.raises(ValueError) as raised:
        parse(values, "logs.toml")
    assert sorted(line.strip() for line in str(raised.value).splitlines()[1:]) == sorted(
        [
            "idss: unknown key: did you mean 'ids'?",
            'impressions.path: missing: add path = "...", or table = "..." for a table of Spark\'s catalog',
            "impressions.columns.timestamps: unknown key: did you mean 'timestamp'?",
            'answers.columns.answer: missing: add answer = "..."',
            "users.features.age.kind: unknown key: known: column, type, default, length",
            "videos.history: is 'author_id', expected a list",
            "requests: is 3, expected a table",
            "output.row_group: is 'many', expected a whole number",
            "output.hive: is 1, expected true or false",
            'ids.user: is \'number\', expected one of "integer", "text"',
        ]
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"videos": None}, "impressions.columns.duration and videos.columns.duration are missing"),
        ({"videos": {"missing": "default"}}, "videos.missing: 'default' leaves unknown videos without a length"),
        ({"videos": {"history": ["tags"]}}, "videos.history: 'tags' is no feature of videos without ids in lists"),
        ({"impressions": {"columns": {"request_id": None}}}, "answers.columns.request_id: the impressions have no"),
        (
            {"answers": {"columns": {"request_id": None, "user_id": None}}},
            "answers.columns.user_id and request_id are missing",
        ),
        (
            {"impressions": {"outcomes": {"watch_ms": "x"}}},
            "impressions.outcomes.watch_ms: the name is used by the data",
        ),
        (
            {"impressions": {"features": {"tags": "x"}}},
            "impressions.features.tags: the name is used by videos.features",
        ),
        ({"users": {"features": {"user_id": "uid"}}}, "users.features.user_id: every request already has a column"),
        ({"requests": {"max_history": -1}}, "requests.max_history=-1 is not allowed: 0 or more"),
        ({"output": {"slice_h": 5}}, "output.slice_h=5 is not allowed: a divisor of 24"),
        ({"answers": {"window_h": 0}}, "answers.window_h=0.0 is not allowed: more than 0"),
        ({"questionnaire": {"options": {"yes": 3}}}, "questionnaire.options.yes=3 is not allowed"),
        ({"engine": {"memory_mb": 1}}, "engine.memory_mb=1 is not allowed: at least 64"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert any(line.startswith(expected) for line in problems(**changes)), problems(**changes)


def test_missing_columns_and_wrong_types_are_listed(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(0))
    values = config(
        impressions={"columns": {"watch": "watchtime"}, "time_unit": "timestamp", "features": {"slot": "region"}},
        users={"features": {"region": "likes"}},
        videos={"features": {"tags": {"column": "maker", "type": "ids"}}},
        answers={"path": "replies/*.parquet"},
    )
    with pytest.raises(ValueError) as raised:
        run_build(tmp_path, values)
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    has = "it has: uid, vid, at, watched, rid, asked, liked, rate, slot"
    assert lines == [
        "impressions.columns.timestamp: column 'at' is BIGINT, not a timestamp: set "
        "impressions.time_unit to s, ms, us, ns",
        f"impressions.columns.watch: no column 'watchtime' in 'impressions.parquet'; {has}",
        f"impressions.features.slot: no column 'region' in 'impressions.parquet'; {has}",
        "answers.path: 'replies/*.parquet': no such file: a file, a glob, or a directory with Parquet or CSV files",
        "users.features.region: column 'likes' is BIGINT[], expected a single value",
        "videos.features.tags: column 'maker' is BIGINT, expected a list of integers, or text",
    ]
    assert not (tmp_path / "out").exists()


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for text, expected in (("[impressions", "invalid TOML"), ("x = 1\n[users]\n", "does not describe a build")):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(ValueError, match=expected):
            load(tmp_path / "a.toml")
    with pytest.raises(ValueError, match=r"none.toml: cannot be read"):
        load(tmp_path / "none.toml")
    write_log(tmp_path, random_log(0))
    (tmp_path / "users.parquet").write_bytes(b"PAR1 but nothing else PAR1")
    with pytest.raises(ValueError, match=r"users.path: .*/users.parquet: not a readable Parquet file: \w"):
        run_build(tmp_path, config())


def test_the_trigger_rule_excludes_its_thresholds() -> None:
    import numpy as np

    rule = Questionnaire(trigger_watch_s=7.0, trigger_progress=0.5)
    watch, length = np.array([7_000, 7_001, 2_000, 2_001, 0]), np.array([20_000, 20_000, 4_000, 4_000, 1])
    assert rule.triggered(watch, length).tolist() == [False, True, False, True, False]


def test_the_command_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, random_log(0))
    (tmp_path / "logs.toml").write_text(TOML)
    command = ["data", "build", "--config", str(tmp_path / "logs.toml"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--memory-mb", "128", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert "scan: scan-000000, of 2" in said.err and "build: bucket-00000, of 1" in said.err
    assert "impressions: 120 rows = " in said.out and f"--data {tmp_path / 'out'}" in said.out
    assert read_rows(tmp_path / "out" / "requests")


def test_errors_of_the_command_are_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs.toml").write_text(TOML.replace('watch = "watched"', ""))
    assert cli.main(["data", "build", "--config", str(tmp_path / "logs.toml"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and 'impressions.columns.watch: missing: add watch = "..."' in said
    assert cli.main(["data", "biuld"]) == 2
    offered = "(Available subcommands: world, build, inspect, counts, convert, join)"
    assert f"Unrecognized options: biuld {offered}" in capsys.readouterr().err


def test_the_builder_does_not_import_torch() -> None:
    program = "import sys, easq_rec.cli.main, easq_rec.tools.builder.command; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_merge_removes_keys_that_are_none() -> None:
    values = {"a": {"b": 1, "c": 2}}
    merge(values, {"a": {"b": None}})
    assert values == {"a": {"c": 2}}


def test_the_file_in_the_documentation_is_valid_and_has_the_defaults() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "reference" / "raw-logs.md").read_text()
    values = tomllib.loads(guide.split("```toml\n")[1].split("```")[0])
    build = parse(values, "the guide")
    assert build.users is not None and build.videos is not None and build.answers is not None
    for name, default in (("requests", Requests()), ("output", Output()), ("engine", Engine())):
        assert getattr(build, name) == default, name
    rules = ("window_h", "late", "duplicate", "contradictory", "untriggered")
    defaults = {field.name: field.default for field in dataclasses.fields(AnswerRules)}
    assert {name: getattr(build.answers, name) for name in rules} == {name: defaults[name] for name in rules}
    assert dataclasses.replace(build.questionnaire, options={"a": 0}) == Questionnaire(options={"a": 0})
