"""KuaiRand conversion: an error in a file gives a message of one line, and no output remains."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.test_kuairand import EARLY, LATE, RANDOM, SCRIPT, impression, prepare, write_raw

LOG_NAME, USER_NAME, VIDEO_NAME = f"{EARLY}_pure.csv", "user_features_pure.csv", "video_features_basic_pure.csv"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw", [impression(user, video, video, 9_000) for user in (0, 1) for video in range(9)])


def refused(raw: Path, message: str) -> None:
    out = raw.parent / "out"
    with pytest.raises(ValueError, match=message) as caught:
        prepare.prepare(raw, out)
    assert str(caught.value).count("\n") == 0
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("name", "column", "cell", "message"),
    [
        (LOG_NAME, "user_id", "x", r"pure\.csv: row 2, column user_id: found 'x', expected an integer"),
        (LOG_NAME, "user_id", "-1", r"row 2, column user_id: found -1, expected an id in 0\.\."),
        (LOG_NAME, "video_id", "", r"row 2, column video_id: found '', expected an integer"),
        (LOG_NAME, "video_id", "99999999999", r"row 2, column video_id: found 99999999999, expected an id"),
        (LOG_NAME, "time_ms", "0", r"row 2, column time_ms: found 0, expected milliseconds since 1970"),
        (LOG_NAME, "time_ms", "9" * 25, r"row 2, column time_ms: found '9+', expected an integer"),
        (LOG_NAME, "is_like", "2", r"row 2, column is_like: found 2, expected 0 or 1"),
        (LOG_NAME, "play_time_ms", "1.5", r"row 2, column play_time_ms: found '1\.5', expected an integer"),
        (LOG_NAME, "tab", "15", r"row 2, column tab: found 15, expected a scenario in 0\.\.14"),
        (USER_NAME, "onehot_feat7", "y", r"user_features_pure\.csv: row 2, column onehot_feat7: found 'y', expected a"),
        (
            USER_NAME,
            "user_id",
            "0",
            r"user_features_pure\.csv: row 2: user 0 is already in .*: row 1: keep one of them",
        ),
        (VIDEO_NAME, "video_id", "0", r"basic_pure\.csv: row 2: video 0 is already in .*: row 1: keep one of"),
        (VIDEO_NAME, "video_id", "-3", r"basic_pure\.csv: row 2, column video_id: found -3, expected an id in 0\.\."),
        (VIDEO_NAME, "author_id", "1.5", r"row 2, column author_id: found 1\.5, expected an id"),
        (VIDEO_NAME, "upload_dt", "April", r"row 2, column upload_dt: found 'April', expected a date like 2022-04-08"),
        (VIDEO_NAME, "tag", '"1,b"', r"row 2, column tag: found 'b', expected integers separated by commas"),
    ],
)
def test_a_bad_cell_is_named(raw: Path, name: str, column: str, cell: str, message: str) -> None:
    lines = (raw / name).read_text().splitlines()
    # Only quoted cells contain commas, so they are replaced before the line is split.
    cells = lines[2].replace('"(0,10]"', "0").replace('"12,65"', "12").split(",")
    cells[lines[0].split(",").index(column)] = cell
    lines[2] = ",".join(cells)
    (raw / name).write_text("\n".join(lines) + "\n")
    refused(raw, message)


@pytest.mark.parametrize("name", [LOG_NAME, f"{LATE}_pure.csv", f"{RANDOM}_pure.csv", USER_NAME, VIDEO_NAME])
def test_empty_files_are_named(raw: Path, name: str) -> None:
    text = (raw / name).read_text()
    (raw / name).write_text("")
    refused(raw, rf"{name}: the file is empty: expected a header with ")
    (raw / name).write_text(text.replace("_id", "_key", 2))
    refused(raw, rf"{name}: no column \w+_id(, \w+_id)?: found ")


@pytest.mark.parametrize("name", [USER_NAME, VIDEO_NAME])
def test_missing_feature_files_are_named(raw: Path, name: str) -> None:
    (raw / name).unlink()
    refused(raw, rf"no file {name}: unpack the whole archive")


def test_logs_without_a_standard_one_are_refused(raw: Path) -> None:
    for name in (EARLY, LATE):
        (raw / f"{name}_pure.csv").unlink()
    refused(raw, rf"no file {EARLY}_pure\.csv or {LATE}_pure\.csv: at least one standard log is needed")


def test_rows_with_a_wrong_number_of_cells_are_named(raw: Path) -> None:
    with (raw / LOG_NAME).open("a") as file:
        file.write("1,2,3\n")
    refused(raw, rf"{LOG_NAME}: row \d+: 3 cells: expected 19 as in the header")


def test_a_video_in_two_parts_is_named(raw: Path) -> None:
    path = raw / VIDEO_NAME
    lines = path.read_text().splitlines()
    path.unlink()
    for part, rows in ((1, lines[1:20]), (2, [*lines[20:], lines[3]])):
        (raw / f"video_features_basic_pure_part{part}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    refused(raw, r"pure_part2\.csv: row 22: video 2 is already in .*_part1\.csv: row 3: keep one of them")


def test_files_with_only_a_header_are_refused(raw: Path) -> None:
    for name in (USER_NAME, VIDEO_NAME, LOG_NAME, f"{LATE}_pure.csv", f"{RANDOM}_pure.csv"):
        text = (raw / name).read_text()
        (raw / name).write_text(text.splitlines()[0] + "\n")
        if name in (USER_NAME, VIDEO_NAME):
            refused(raw, rf"{name}: no (users|videos): expected at least one row below the header")
            (raw / name).write_text(text)
    refused(raw, "the logs have no rows: expected at least one")


def test_invalid_directories_are_refused(raw: Path, tmp_path: Path) -> None:
    write_raw(raw, [impression(0, 0, 0)], "1k")
    refused(raw, "has pure and 1k: choose one with --variant")
    refused_name = raw / f"{LATE}_27k_part2.csv"
    refused_name.write_text("")
    (raw / f"{EARLY}_27k.csv").write_text("")
    with pytest.raises(ValueError, match=rf"no file {LATE}_27k_part1\.csv"):
        prepare.prepare(raw, tmp_path / "out", variant="27k")
    with pytest.raises(ValueError, match="expected an unpacked KuaiRand archive"):
        prepare.prepare(tmp_path / "nowhere", tmp_path / "out")


def test_command_line(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, new = raw.parent / "out", raw.parent / "new"
    assert prepare.main(["--raw", str(raw), "--out", str(out)]) == 0
    assert "18  rows" in capsys.readouterr().out
    for arguments, message in (
        (["--raw", str(SCRIPT.parent), "--out", str(new)], "expected an unpacked KuaiRand archive"),
        (["--raw", str(raw), "--out", str(out)], "already exists: delete it"),
        (["--raw", str(raw), "--out", str(new), "--reveal", "2"], "--reveal 2.0: expected between 0 and 1"),
        (["--raw", str(raw), "--out", str(new), "--candidates", "1"], "--candidates 1: expected at least 2"),
        (["--raw", str(raw), "--out", str(new), "--window", "-1"], "--window -1: expected between 0 and"),
        (["--raw", str(raw), "--out", str(new), "--history", "0"], "--history 0: expected at least 1"),
    ):
        assert prepare.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not new.exists()
