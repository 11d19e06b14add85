"""KuaiRand conversion: each impression occurs once, nothing is from the future, and no input has explicit signals."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import Warm

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "datasets" / "kuairand" / "prepare.py"
REAL = Path(os.environ.get("EASQ_KUAIRAND", ROOT.parent / "shared" / "data" / "kuairand-pure-even"))
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{number}" for number in range(18))
)
VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
EARLY, LATE, RANDOM = "log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08", "log_random_4_22_to_5_08"
START_MS = 1_649_347_200_000
"""8 April 2022, 0:00 in Beijing."""
USERS, VIDEOS = 6, 40
EXPLICIT = ("is_like", "is_follow", "is_comment", "is_forward", "is_hate")

Row = dict[str, Any]


def load_script() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("kuairand_prepare", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare = load_script()


def impression(user: int, video: int, second: float, play_ms: int = 0, **other: int) -> Row:
    """A log row, `second` seconds after the start of the log. Plays above 7 s are valid; those above 18 s are long."""
    row = dict.fromkeys(LOG.split(","), 0)
    row |= {"user_id": user, "video_id": video, "date": 20220408, "hourmin": 900, "tab": 1, "duration_ms": 60_000}
    row |= {"time_ms": START_MS + int(1_000 * second), "play_time_ms": play_ms}
    return row | {"is_click": int(play_ms > 7_000), "long_view": int(play_ms > 18_000)} | other


def some_impressions(count: int = 600, seed: int = 0) -> list[Row]:
    """Bursts of impressions in random order, in 3 tabs, with repeated videos, long plays and unknown durations."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count // 10):
        user, second, tab = int(rng.integers(USERS)), int(rng.integers(86_400 * 3)), int(rng.integers(3))
        for step in range(10):
            second += int(rng.integers(0, 90))
            flags = {name: int(rng.random() < 0.15) for name in EXPLICIT}
            duration = 0 if rng.random() < 0.1 else int(rng.integers(3_000, 90_000))
            rows.append(
                impression(user, int(rng.integers(VIDEOS)), second, int(rng.exponential(15_000)), duration_ms=duration)
                | flags
                | {"tab": tab, "is_rand": int(number % 5 == 0 and step % 2)}
            )
    unique = {(row["user_id"], row["time_ms"], row["video_id"]): row for row in rows}
    return [list(unique.values())[index] for index in rng.permutation(len(unique))]


def write(path: Path, header: str, rows: list[Row]) -> None:
    lines = [header, *(",".join(str(row[name]) for name in header.split(",")) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines))


def write_raw(folder: Path, rows: list[Row], variant: str = "pure") -> Path:
    """Writes the files of a variant: users 0..USERS-1, videos 0..VIDEOS-1, and each row to a log of its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    standard = [row for row in rows if not row["is_rand"]]
    write(folder / f"{EARLY}_{variant}.csv", LOG, standard[::2])
    write(folder / f"{LATE}_{variant}.csv", LOG, standard[1::2])
    write(folder / f"{RANDOM}_{variant}.csv", LOG, [row for row in rows if row["is_rand"]])
    codes = {f"onehot_feat{number}": "" if number == 4 else "1.0" if number > 9 else 1 for number in range(18)}
    users = [
        dict.fromkeys(USER.split(","), 0)
        | {"user_id": user, "follow_user_num_range": '"(0,10]"', "register_days_range": "730+"}
        | codes
        for user in range(USERS)
    ]
    write(folder / f"user_features_{variant}.csv", USER, users)
    videos = [
        dict.fromkeys(VIDEO.split(","), 0)
        | {"video_id": video, "author_id": video // 3, "video_type": "NORMAL", "upload_dt": "2022-04-01"}
        | {"tag": '"12,65"' if video % 2 else video, "video_duration": "17200.0"}
        for video in range(VIDEOS)
    ]
    write(folder / f"video_features_basic_{variant}.csv", VIDEO, videos)
    return folder


def read(folder: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(folder).to_pylist()
    return rows


def convert(raw: Path, out: Path, **options: Any) -> tuple[list[Row], list[Row], list[Row]]:
    """(requests, answers, random requests)."""
    prepare.prepare(raw, out, **{"reveal": 0.5, "window": 300, "random_window": 86_400, **options})
    return read(out / "requests"), read(out / "answers"), read(out / "random" / "requests")


def expected_requests(rows: list[Row], window_ms: int, candidates: int) -> list[list[Row]]:
    """Applies the grouping rule in a loop over the impressions."""
    result: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (row["user_id"], row["time_ms"], row["video_id"])):
        last = result[-1] if result else []
        if (
            not last
            or (last[0]["user_id"], last[0]["tab"]) != (row["user_id"], row["tab"])
            or row["time_ms"] - last[0]["time_ms"] > window_ms
            or row["video_id"] in {other["video_id"] for other in last}
            or len(last) == candidates
        ):
            result.append([])
        result[-1].append(row)
    return result


def check(rows: list[Row], found: list[Row], past: list[Row], window_ms: int, history: int, candidates: int) -> None:
    """Checks all guarantees about requests, one by one."""
    wanted = expected_requests(rows, window_ms, candidates)
    assert [row["request_id"] for row in found] == list(range(len(wanted)))
    times = [row["timestamp_ms"] for row in found]
    assert times == sorted(times)
    by_start = {(group[0]["user_id"], group[0]["time_ms"], group[0]["video_id"]): group for group in wanted}
    for row in found:
        start = row["user_id"], row["timestamp_ms"], row["candidates"][0]["video_id"]
        group = by_start.pop(start)
        assert row["user"]["tab"] == group[0]["tab"]
        for c, raw in zip(row["candidates"], group, strict=True):
            assert (c["video_id"], c["valid_play"], c["long_view"]) == (
                raw["video_id"],
                raw["is_click"],
                raw["long_view"],
            )
            assert (c["watch_ms"], c["duration_ms"]) == (raw["play_time_ms"], raw["duration_ms"])
            assert c["known_ms"] == raw["time_ms"] + raw["play_time_ms"]
            assert c["true_satisfaction"] == grade(raw)
        known = sorted(
            (raw["time_ms"] + raw["play_time_ms"], raw["video_id"])
            for raw in past
            if raw["user_id"] == row["user_id"] and raw["is_click"]
        )
        entries = [(h["timestamp_ms"], h["video_id"]) for h in row["history"]]
        assert entries == [entry for entry in known if entry[0] < row["timestamp_ms"]][-history:]
        assert all(0 <= h["watch_ratio"] <= 2 and h["author_id"] == h["video_id"] // 3 for h in row["history"])
    assert not by_start


def grade(raw: Row) -> int | None:
    satisfied = any(raw[name] for name in EXPLICIT[:4])
    return None if not satisfied and not raw["is_hate"] else 1 if satisfied and raw["is_hate"] else 2 * satisfied


@pytest.mark.parametrize(("candidates", "history", "part_rows"), [(12, 50, 10**6), (3, 4, 100)])
def test_conversion_keeps_all_guarantees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates: int, history: int, part_rows: int
) -> None:
    """The log is converted in one piece, and divided into parts and slices."""
    monkeypatch.setattr(prepare, "PART_ROWS", part_rows)
    monkeypatch.setattr(prepare, "SLICE_ROWS", part_rows)
    monkeypatch.setattr(sys.modules["kuairand_csv"], "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(prepare, "ROW_GROUP", 16)
    rows = some_impressions()
    raw = write_raw(tmp_path / "raw", rows)
    found, _, exposed = convert(raw, tmp_path / "out", candidates=candidates, history=history)
    standard = [row for row in rows if not row["is_rand"]]
    check(standard, found, standard, 300_000, history, candidates)
    check([row for row in rows if row["is_rand"]], exposed, standard, 86_400_000, history, candidates)
    assert len(found) > 50 and len(exposed) > 5 and {len(row["candidates"]) for row in found} >= {1, 2, 3}
    assert pq.ParquetFile(tmp_path / "out/requests/part-00000.parquet").metadata.row_group(0).num_rows == 16


def test_a_history_has_only_plays_that_ended_before_the_request(tmp_path: Path) -> None:
    """Left out are a play in progress at the request, one that ends in the same millisecond, and a later one."""
    now = 1_000
    rows = [
        impression(1, 10, now - 100, 20_000),
        impression(1, 11, now - 30, 30_000),
        impression(1, 12, now - 20, 30_000),
        impression(1, 13, now + 1, 40_000),
        impression(1, 14, now - 10, 7_000),
        impression(2, 15, now - 90, 20_000),
        impression(1, 20, now),
    ]
    found, _, _ = convert(write_raw(tmp_path / "raw", rows), tmp_path / "out", window=0)
    (row,) = [row for row in found if row["candidates"][0]["video_id"] == 20]
    assert [(h["video_id"], h["timestamp_ms"]) for h in row["history"]] == [(10, START_MS + 920_000)]


def test_inputs_do_not_depend_on_later_outcomes(tmp_path: Path) -> None:
    rows = some_impressions()
    moment = START_MS + 86_400_000
    outcomes = ("is_click", "long_view", "play_time_ms", *EXPLICIT)
    changed = [
        row | {name: 1 - row[name] if name.startswith(("is_", "long")) else 30_000 for name in outcomes}
        if row["time_ms"] + row["play_time_ms"] >= moment
        else row
        for row in rows
    ]
    assert changed != rows
    inputs = []
    for name, version in (("a", rows), ("b", changed)):
        requests, _, exposed = convert(write_raw(tmp_path / name / "raw", version), tmp_path / name / "out")
        early = [row for row in requests + exposed if row["timestamp_ms"] <= moment]
        assert 10 < len(early) < len(requests)
        for row in early:
            for c in row["candidates"]:
                for outcome in ("valid_play", "long_view", "watch_ms", "known_ms", "true_satisfaction"):
                    del c[outcome]
        inputs.append(early)
    assert inputs[0] == inputs[1]


def test_explicit_signals_only_change_answers_and_truth(tmp_path: Path) -> None:
    """Without explicit signals the requests are the same, except for the truth, which only evaluation reads."""
    rows = some_impressions(1_500)
    requests, answers, exposed = convert(write_raw(tmp_path / "a", rows), tmp_path / "out", reveal=0.3)
    silent = [row | dict.fromkeys(EXPLICIT, 0) for row in rows]
    plain, none, plain_exposed = convert(write_raw(tmp_path / "b", silent), tmp_path / "plain", reveal=1.0)
    assert none == []
    by_id = {row["request_id"]: dict(row, candidates=[dict(c) for c in row["candidates"]]) for row in requests}
    for row in requests + exposed + plain + plain_exposed:
        for c in row["candidates"]:
            assert set(c) == {
                *("video_id", "author_id", "tags", "duration_ms", "video_type", "age"),
                *("valid_play", "long_view", "watch_ms", "known_ms", "true_satisfaction"),
            }
            del c["true_satisfaction"]
    assert requests == plain and exposed == plain_exposed

    raw = {(row["user_id"], row["video_id"], row["time_ms"] + row["play_time_ms"]): row for row in rows}
    revealed = 0
    for row in answers:
        here = 0
        for c in row["candidates"]:
            answer, at = c.pop("answer"), c.pop("answered_at_ms")
            assert (answer is None) == (at is None)
            if answer is not None:
                source = raw[row["user_id"], c["video_id"], at - 60_000]
                assert answer == grade(source) and not source["is_rand"] and at > source["time_ms"]
                here += 1
        assert here and row == by_id[row["request_id"]]
        revealed += here
    signals = sum(grade(row) is not None and not row["is_rand"] for row in rows)
    assert abs(revealed - 0.3 * signals) <= 4 * (0.3 * 0.7 * signals) ** 0.5


def test_answers_depend_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = some_impressions()
    first = convert(write_raw(tmp_path / "a", rows), tmp_path / "a1")
    again = convert(write_raw(tmp_path / "b", rows[::-1]), tmp_path / "b1")
    other = convert(tmp_path / "a", tmp_path / "a2", seed=1)
    assert first == again
    assert first[0] == other[0] and first[1] != other[1]
    every = convert(tmp_path / "a", tmp_path / "a3", reveal=1.0)[1]
    signals = sum(grade(row) is not None and not row["is_rand"] for row in rows)
    assert sum(c["answer"] is not None for row in every for c in row["candidates"]) == signals


def test_features_of_users_and_videos(tmp_path: Path) -> None:
    rows = [impression(1, 5, 3_600 * 9), impression(1, 6, 3_600 * 9 + 1), impression(99, 77, 3_600 * 23)]
    raw = write_raw(tmp_path / "raw", rows)
    found, _, exposed = convert(raw, tmp_path / "out")
    assert exposed == []
    known, unknown = (row["user"] for row in found)
    onehot = {1: 2, 2: 2, 4: 0, 5: 2, 6: 2, 7: 2, 8: 2, 9: 2, 10: 2, 11: 2}
    assert known == {"tab": 1, "hour": 9, "register_days": 7, **{f"onehot_{n}": code for n, code in onehot.items()}}
    assert unknown == dict.fromkeys(known, 0) | {"tab": 1, "hour": 23}
    # Uploaded 7 days before the request, so the age bucket is 1 + log2(1 + 7).
    five, six = found[0]["candidates"]
    assert (five["tags"], six["tags"], five["author_id"], five["video_type"], five["age"]) == ([12, 65], [6], 1, 1, 4)
    (absent,) = found[1]["candidates"]
    assert (absent["author_id"], absent["tags"], absent["video_type"], absent["age"]) == (-1, [], 0, 0)


def test_cells_that_are_empty_or_from_the_future_are_unknown(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [impression(0, video, video) for video in range(4)])
    rows = ["0,,,,,,,,,,,", '1,7.0,AD,2022-04-08,,,,,,,," 3 , 4 "', '2,7,NEW,2022-04-09,,,,,,,,""', "3,7,,NaN,,,,,,,,5"]
    (raw / "video_features_basic_pure.csv").write_text("\n".join([VIDEO, *rows]) + "\n")
    found, _, _ = convert(raw, tmp_path / "out")
    seen = [tuple(c[n] for n in ("author_id", "video_type", "age", "tags")) for c in found[0]["candidates"]]
    assert seen == [(-1, 0, 0, []), (7, 2, 1, [3, 4]), (7, 0, 0, []), (7, 0, 0, [5])]


def test_unusual_rows_are_counted(tmp_path: Path) -> None:
    rows = [
        impression(0, 1, 0, -5, duration_ms=-1),
        impression(0, 2, 10, 90_000, is_like=1, is_hate=1),
        impression(0, 2, 10, 90_000, is_like=1, is_hate=1),
        impression(0, 3, 200, 8_000, duration_ms=0),
        impression(9, 3, 0),
        impression(0, 70, 201),
        impression(0, 3, 200, 8_000, duration_ms=0, is_rand=1),
        impression(0, 1, 400),
    ]
    raw = write_raw(tmp_path / "raw", rows)
    summary = prepare.prepare(raw, tmp_path / "out", reveal=1.0, window=300)
    found, answers, exposed = (read(tmp_path / "out" / name) for name in ("requests", "answers", "random/requests"))
    numbers = Counter({line[17:]: int(line[:15].replace(",", "")) for line in summary.splitlines()[1:]})
    assert numbers["rows"] == 8 and numbers["repeated rows (left out)"] == 2
    assert numbers["play time below 0 (taken as 0)"] == 1 and numbers["duration 0 or less (unknown)"] == 3
    assert numbers["played longer than the video (kept)"] == 2
    assert numbers["hated and also liked, followed, commented or forwarded"] == 1
    assert numbers["requests of users without features"] == 1 and numbers["candidates without video features"] == 1
    # An impression in both logs counts as random, so that training does not use it.
    assert [c["video_id"] for row in exposed for c in row["candidates"]] == [3]
    assert [[c["video_id"] for c in row["candidates"]] for row in found] == [[1, 2, 70], [3], [1]]
    assert found[0]["candidates"][0]["watch_ms"] == found[0]["candidates"][0]["duration_ms"] == 0
    assert [c["answer"] for row in answers for c in row["candidates"]] == [None, 1, None]
    assert [h["watch_ratio"] for h in found[2]["history"]] == [1.5]


@pytest.mark.parametrize("form", ["plain", "windows", "quoted", "reordered", "parts", "folder"])
def test_all_forms_of_the_files_give_the_same_result(tmp_path: Path, form: str) -> None:
    rows = some_impressions(200)
    raw = write_raw(tmp_path / "plain", rows, "27k")
    wanted = convert(raw, tmp_path / "wanted")
    path = raw / f"{EARLY}_27k.csv"
    lines = path.read_text().splitlines()
    match form:
        case "windows":
            for file in raw.iterdir():
                file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
        case "quoted":
            path.write_text("".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in lines))
        case "reordered":
            names = ["extra", *reversed(LOG.split(","))]
            cells = [["x", *reversed(line.split(","))] for line in lines[1:]]
            path.write_text("".join(",".join(line) + "\n" for line in [names, *cells]))
        case "parts":
            path.unlink()
            for part, chunk in ((1, lines[1:40]), (2, lines[40:])):
                (raw / f"{EARLY}_27k_part{part}.csv").write_text("\n".join([lines[0], *chunk]) + "\n")
        case "folder":
            (tmp_path / "above").mkdir()
            raw = raw.rename(tmp_path / "above" / "data").parent
    assert convert(raw, tmp_path / "out") == wanted


@pytest.mark.parametrize(
    ("missing", "kept", "said"),
    [
        (EARLY, {"requests", "answers", "random"}, "no requests before 22 April; histories begin on 22 April"),
        (LATE, {"requests", "answers", "random"}, "no requests and no answers from 22 April on"),
        (RANDOM, {"requests", "answers"}, "no dataset random/"),
    ],
)
def test_a_missing_log_is_named_and_the_others_are_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str, kept: set[str], said: str
) -> None:
    raw = write_raw(tmp_path / "raw", rows := some_impressions())
    (raw / f"{missing}_pure.csv").unlink()
    prepare.prepare(raw, tmp_path / "out", window=300)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("missing: "))
    assert line.startswith(f"missing: {missing}_pure.csv: {said}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept
    standard = [row for row in rows if not row["is_rand"]]
    there = {EARLY: standard[1::2], LATE: standard[::2], RANDOM: standard}[missing]
    check(there, read(tmp_path / "out" / "requests"), there, 300_000, 50, 12)


def test_a_random_log_without_rows_is_an_empty_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_raw(tmp_path / "raw", [impression(0, 1, 0), impression(0, 2, 1)])
    (raw / f"{EARLY}_pure.csv").unlink()
    _, _, exposed = convert(raw, tmp_path / "out")
    assert exposed == [] and f"missing: {RANDOM}" not in capsys.readouterr().err


def test_a_complete_archive_misses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(write_raw(tmp_path / "raw", some_impressions(50)), tmp_path / "out")
    assert "missing" not in capsys.readouterr().err


@pytest.mark.skipif(
    not any(REAL.glob("log_standard_*_pure.csv")),
    reason="no logs of KuaiRand-Pure: set EASQ_KUAIRAND to the directory that holds log_standard_*_pure.csv",
)
def test_real_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = sorted(REAL.glob("log_*_pure.csv"))
    with ExitStack() as stack:
        raw = [row for log in logs for row in csv.DictReader(stack.enter_context(log.open()))]
    rows: list[Row] = [{name: int(cell) for name, cell in row.items()} for row in raw]
    requests, answers, exposed = tmp_path / "out/requests", tmp_path / "out/answers", tmp_path / "out/random"
    prepare.prepare(REAL, tmp_path / "out")
    said = capsys.readouterr().err
    for name in (EARLY, LATE, RANDOM):
        assert (f"missing: {name}_pure.csv" in said) == (not any(REAL.glob(f"{name}_pure*.csv")))
    assert exposed.exists() == any(REAL.glob(f"{RANDOM}_pure*.csv"))
    unique: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        # The public log repeats rows; the first one counts.
        unique.setdefault((row["user_id"], row["time_ms"], row["video_id"]), row)
    standard = [row for row in unique.values() if not row["is_rand"]]
    found = read(requests)
    assert len(found) > 10_000 and 0 < len(read(answers)) < len(found)
    # A part of the users is enough for the slow reference.
    users = set(sorted({row["user_id"] for row in standard})[::20])
    some = [row for row in standard if row["user_id"] in users]
    written = [row for row in found if row["user_id"] in users]
    wanted = expected_requests(some, 86_400_000, 12)
    by_start = {(group[0]["user_id"], group[0]["time_ms"], group[0]["video_id"]): group for group in wanted}
    assert len(written) == len(by_start) == len(wanted)
    for row in written:
        group = by_start[row["user_id"], row["timestamp_ms"], row["candidates"][0]["video_id"]]
        assert [(c["video_id"], c["valid_play"], c["long_view"]) for c in row["candidates"]] == [
            (line["video_id"], line["is_click"], line["long_view"]) for line in group
        ]


def test_prepare_train_and_evaluate_on_random_exposures(tmp_path: Path, warm: Warm) -> None:
    """Runs the commands of the dataset's README as a user does."""
    raw, out, run = write_raw(tmp_path / "raw", some_impressions(1_500)), tmp_path / "out", tmp_path / "run"
    easq_rec = [warm.python, "-m", "easq_rec.cli"]
    small = ["--trainer.max-steps", "3", "--trainer.batch-size", "16", "--trainer.threads", "1"]
    steps = (
        [warm.python, str(SCRIPT), "--raw", str(raw), "--out", str(out), "--reveal", "0.5"],
        [*easq_rec, "train", "kuairand", "--data", str(out), "--run-dir", str(run), *small],
        [*easq_rec, "evaluate", "--run", str(run), "--data", str(out / "random")],
    )
    for step in steps:
        done = warm.run(*step)
    assert "held-out requests of 4 users, ranked by the policy score" in done.stdout
    assert "satisfaction NDCG@5" in done.stdout
