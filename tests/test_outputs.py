"""Output paths are checked before the work, and JSON is what every parser reads."""

from __future__ import annotations

import ast
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from easq_rec import json_file, outputs
from easq_rec.cli import main as cli
from easq_rec.errors import UserError

PACKAGE = Path(__file__).parents[1] / "easq_rec"


def test_one_module_writes_json() -> None:
    """Every other one would have to think of NaN itself."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == PACKAGE / "json_file.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "json"
            if named and node.attr in ("dump", "dumps", "JSONEncoder"):  # type: ignore[attr-defined]
                found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")  # type: ignore[attr-defined]
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert found == [], "these write JSON: use easq_rec.json_file"


def test_numbers_that_json_has_not_are_null_at_any_depth(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, {"c": math.nan})], "d": "NaN", "e": True}
    expected = {"a": None, "b": [1.5, None, [None, {"c": None}]], "d": "NaN", "e": True}
    refuse = pytest.fail
    assert json.loads(json_file.text(value), parse_constant=refuse) == expected
    json_file.write(tmp_path / "new" / "v.json", value)
    assert json.loads((tmp_path / "new" / "v.json").read_text(), parse_constant=refuse) == expected
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["v.json"]


def test_a_json_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "v.json"):
        with pytest.raises(UserError, match="cannot be written: ") as raised:
            json_file.write(path, {})
        assert "\n" not in str(raised.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_device_is_written_to_as_it_is() -> None:
    outputs.check_file("--out", Path("/dev/null"))
    json_file.write(Path("/dev/null"), {"a": 1})
    assert Path("/dev/null").is_char_device()


def test_files_and_folders_that_cannot_be_outputs(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("folder")
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    cases = {
        "is a directory: name a file to write": lambda: outputs.check_file("--out", folder),
        "file/v.json: cannot be written": lambda: outputs.check_file("--out", file / "v.json"),
        "file: cannot be written": lambda: outputs.check_folder("--out", file),
        "is no directory": lambda: outputs.check_new_directory("--out", file),
        "file/out: cannot be written": lambda: outputs.check_new_directory("--out", file / "out"),
        "folder, which is read": lambda: outputs.check_new_directory("--out", link / "out", inputs=[folder]),
        "inside, which is read": lambda: outputs.check_folder("--out", folder / "inside", inputs=[folder / "inside"]),
        "is a mount point": lambda: outputs.check_new_directory("--out", Path("/proc")),
    }
    for message, check in cases.items():
        with pytest.raises(UserError, match=f"^--out .*{message}"):
            check()
    outputs.check_new_directory("--out", tmp_path / "new" / "out", inputs=[folder])
    outputs.check_folder("--out", tmp_path / "folder2", inputs=[folder])
    assert not (tmp_path / "new" / "out").exists() and not list((tmp_path / "new").iterdir())


def test_errors_of_the_disk_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UserError, match=r"^--out /x: cannot be written: No space left on device$"),
        outputs.writing("--out", Path("/x")),
    ):
        raise OSError(28, os.strerror(28))
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full does not exist here")
    with pytest.raises(UserError, match="/dev/full: cannot be written: No space left on device"):
        json_file.write(Path("/dev/full"), {"a": 1})


LOGS = """
[impressions]
path = "imp.csv"
[impressions.columns]
user_id = "user"
video_id = "video"
timestamp = "at"
watch = "watched"
duration = "length"
"""
COMMANDS = [
    ["data", "build", "--config", "logs.toml", "--out"],
    ["data", "world", "--out"],
    ["data", "counts", "world", "--recipe", "kuairand_counts", "--out"],
    ["data", "inspect", "world", "--out"],
    ["report", "run", "--out"],
    ["evaluate", "--run", "run", "--out"],
    ["compare", "run", "run", "--json"],
    ["score", "--run", "run", "--input", "world", "--output"],
    ["study", "signal", "--out"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_every_command_checks_its_output_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output lies below a file. Inputs that are missing are named before or instead; nothing is computed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "world" / "requests").mkdir(parents=True)
    (tmp_path / "world" / "answers").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "logs.toml").write_text(LOGS)
    assert cli.main([*command, "file/out"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and len(said.splitlines()) == 1
    if command[0] != "score":  # It reads the run's config first, which tells the input's columns.
        assert f"{command[-1]} file/out: cannot be written: " in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_an_output_that_is_a_mount_point_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "vol").mkdir()
    (tmp_path / "logs.toml").write_text(LOGS)
    program = shlex.quote(sys.executable) + " -m easq_rec.cli"
    commands = (f"{program} data world --out vol", f"{program} data build --config logs.toml --out vol")
    mounted = f"mount -t tmpfs x vol && echo mounted && {{ {'; '.join(commands)}; }}"
    run = subprocess.run(["unshare", "-m", "bash", "-c", mounted], cwd=tmp_path, capture_output=True, text=True)
    if "mounted" not in run.stdout:
        pytest.skip(f"mounting is not allowed here: {run.stderr}")
    remedy = "name a directory in it, as --out vol/out"
    assert run.stderr == f"easq-rec: --out vol: is a mount point, which cannot be replaced: {remedy}\n" * 2
