"""MovieLens conversion: each rating event occurs once, nothing is from the future, and no input contains a rating."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.data.dataset import split

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "datasets" / "movielens" / "prepare.py"
ML100K = Path(os.environ.get("EASQ_ML100K", ROOT.parent / "shared" / "data" / "ml-100k"))
USERS, FILMS = 8, 60

Row = dict[str, Any]
Event = tuple[int, int, int, int]
"""User, film, rating, unix seconds."""


def load_script() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("movielens_prepare", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prepare = load_script()


def write_raw(folder: Path) -> list[Event]:
    """Writes a small dataset in the public format (tabs, bars, latin-1), with several ratings in the same second."""
    rng = np.random.default_rng(1)
    events: list[Event] = []
    for user in range(1, USERS + 1):
        films = 1 + rng.choice(FILMS, size=int(rng.integers(9, 40)), replace=False)
        seconds = 880_000_000 + np.sort(rng.integers(0, 12, len(films))) * int(rng.integers(1, 5_000))
        events += [(user, int(f), int(rng.integers(1, 6)), int(s)) for f, s in zip(films, seconds, strict=True)]
    shuffled = [events[i] for i in rng.permutation(len(events))]
    folder.mkdir()
    (folder / "u.data").write_text("".join("\t".join(map(str, event)) + "\n" for event in shuffled))
    people = [f"{user}|{10 + 7 * user}|{'MF'[user % 2]}|student|0000{user}\n" for user in range(1, USERS + 1)]
    (folder / "u.user").write_text("".join(people))
    films_text = []
    for film in range(1, FILMS + 1):
        genres = ["0"] * 19
        if film != 2:
            genres[film % 19] = genres[film % 7] = "1"
        date = "" if film == 3 else " 4-Feb-1971" if film == 4 else f"01-Jan-19{20 + film % 79}"
        films_text.append(f"{film}|Caf\xe9 {film} (1995)|{date}||http://example.org/{film}|{'|'.join(genres)}\n")
    (folder / "u.item").write_bytes("".join(films_text).encode("latin-1"))
    return events


def convert(raw: Path, out: Path, **options: Any) -> tuple[list[Row], list[Row]]:
    defaults = {"answer_rate": 0.3, "seed": 0, "candidates": 12, "watched": 4, "history": 50}
    prepare.prepare(raw, out, **{**defaults, **options})
    requests, answers = (pq.read_table(out / name / "part-00000.parquet") for name in ("requests", "answers"))
    return requests.to_pylist(), answers.to_pylist()


def check(
    events: list[Event], requests: list[Row], answers: list[Row], *, rate: float, rows: slice, history: int = 50
) -> None:
    """Checks all guarantees of the conversion; `rows`: the requests whose candidates are checked in full."""
    rating = {(user, film): value for user, film, value, _ in events}
    second = {(user, film): at for user, film, _, at in events}
    timeline: dict[int, list[tuple[int, int]]] = {}
    for user, film, _, at in sorted(events, key=lambda event: (event[0], event[3], event[1])):
        timeline.setdefault(user, []).append((at, film))

    seen: Counter[tuple[int, int]] = Counter()
    assert [row["request_id"] for row in requests] == list(range(len(requests)))
    times = [row["timestamp_ms"] for row in requests]
    assert times == sorted(times)
    before: dict[int, list[tuple[int, int]]] = {}
    for row in requests:
        user, at = row["user_id"], row["timestamp_ms"]
        past = before.setdefault(user, [])
        watched = [c["video_id"] for c in row["candidates"] if c["long_view"]]
        seen.update((user, film) for film in watched)
        # The watched films are consecutive in the timeline, and the request has the time of the first one.
        block = timeline[user][len(past) : len(past) + len(watched)]
        assert {film for _, film in block} == set(watched) and at == block[0][0] * 1_000
        known = {film: when * 1_000 for when, film in block}
        last = max(known.values())
        assert [c["known_ms"] for c in row["candidates"]] == [known.get(c["video_id"], last) for c in row["candidates"]]
        strictly = [(when, film) for when, film in past if when * 1_000 < at]
        assert [(h["timestamp_ms"] // 1_000, h["video_id"]) for h in row["history"]] == strictly[-history:]
        assert all(h["watch_ratio"] == 1.0 for h in row["history"])
        films = [c["video_id"] for c in row["candidates"]]
        assert len(set(films)) == len(films)
        assert not set(films) & {film for _, film in past}, "no film that the user has watched already"
        past += block
    assert seen == Counter({(user, film): 1 for user, film, _, _ in events})

    for row in requests[rows]:
        for c in row["candidates"]:
            truth = rating[row["user_id"], c["video_id"]] if c["long_view"] else None
            assert c["true_satisfaction"] == truth
            assert c["tags"] and set(c["tags"]) <= set(range(19)) and c["decade"] in range(16)
        assert row["user"]["gender"] in (0, 1) and row["user"]["age_group"] in range(7)
        assert row["user"]["occupation"] in range(21)

    by_id = {row["request_id"]: row for row in requests}
    count = 0
    for row in answers:
        here = 0
        for c in row["candidates"]:
            answer, at = c.pop("answer"), c.pop("answered_at_ms")
            assert (answer is None) == (at is None)
            if answer is not None:
                value = rating[row["user_id"], c["video_id"]]
                assert answer == {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}[value]
                assert at == second[row["user_id"], c["video_id"]] * 1_000 + 60_000 > row["timestamp_ms"]
                here += 1
        assert here and row == by_id[row["request_id"]]
        count += here
    assert abs(count - rate * len(events)) <= 4 * (rate * (1 - rate) * len(events)) ** 0.5


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, list[Event]]:
    return tmp_path / "raw", write_raw(tmp_path / "raw")


@pytest.mark.parametrize(("candidates", "watched"), [(12, 4), (3, 1), (59, 7)])
def test_conversion_keeps_all_guarantees(
    raw: tuple[Path, list[Event]], tmp_path: Path, candidates: int, watched: int
) -> None:
    folder, events = raw
    requests, answers = convert(folder, tmp_path / "out", candidates=candidates, watched=watched)
    check(events, requests, answers, rate=0.3, rows=slice(None))
    if candidates < FILMS - 50:
        assert {len(row["candidates"]) for row in requests} == {candidates}
    assert max(sum(c["long_view"] for c in row["candidates"]) for row in requests) == watched


def test_on_the_clock_of_users_the_last_part_of_every_history_is_held_out(
    raw: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder, events = raw
    times = [second for *_, second in events]
    first, last = min(times), max(times)
    moved = []
    for user in range(1, USERS + 1):
        own = sorted((event for event in events if event[0] == user), key=lambda event: (event[3], event[1]))
        for _, film, rating, second in own:
            place = next(k for k, event in enumerate(own) if event[3] == second)
            moved.append((user, film, rating, first + place * (last - first) // len(own)))
    requests, answers = convert(folder, tmp_path / "out", clock="user")
    check(moved, requests, answers, rate=0.3, rows=slice(None))
    cut = split(tmp_path / "out" / "requests", 0.2)[1].start_ms
    users = {row["user_id"] for row in requests}
    assert users == {row["user_id"] for row in requests if row["timestamp_ms"] < cut} == set(range(1, USERS + 1))
    share = sum(second * 1_000 >= cut for *_, second in moved) / len(moved)
    # Events of one second stay together, so the share is not exact.
    assert 0.05 < share < 0.25


def test_popularity_counts_only_events_before_the_request(
    raw: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without smoothing, only films that someone has rated in an earlier second can be drawn."""
    folder, events = raw
    monkeypatch.setattr(sys.modules["movielens_requests"], "SMOOTHING", 0.0)
    requests, _ = convert(folder, tmp_path / "out", candidates=59)
    first: dict[int, int] = {}
    for _, film, _, at in events:
        first[film] = min(at, first.get(film, at))
    for row in requests:
        own = [film for user, film, _, at in events if user == row["user_id"] and at * 1_000 < row["timestamp_ms"]]
        offered = {c["video_id"] for c in row["candidates"] if not c["long_view"]}
        past = {film for film, at in first.items() if at * 1_000 < row["timestamp_ms"]}
        assert offered <= past - set(own)
    assert requests[0]["candidates"] == [c for c in requests[0]["candidates"] if c["long_view"]]


def test_mapping_of_films_and_people(raw: tuple[Path, list[Event]], tmp_path: Path) -> None:
    requests, _ = convert(raw[0], tmp_path / "out", candidates=59)
    films = {c["video_id"]: c for row in requests for c in row["candidates"]}
    assert films[2]["tags"] == [0] and films[3]["decade"] == 0
    assert films[4]["decade"] == 7 and films[9]["decade"] == 2 and films[9]["tags"] == [2, 9]
    users = {row["user_id"]: row["user"] for row in requests}
    # Ages 17, 24, 31, ... 66.
    assert [users[user]["age_group"] for user in sorted(users)] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert users[1] == {"gender": 1, "age_group": 0, "occupation": 18}


def test_output_depends_on_the_seed_and_candidate_order_reveals_no_labels(
    raw: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    first, again = convert(raw[0], tmp_path / "a"), convert(raw[0], tmp_path / "b")
    other = convert(raw[0], tmp_path / "c", seed=1)
    assert first == again and first != other
    labels = np.array([[c["long_view"] for c in row["candidates"]] for row in first[0] if len(row["candidates"]) == 12])
    assert len(labels) > 30 and labels.mean(axis=0).max() < 2 * labels.mean()
    assert labels.mean(axis=0).min() > 0


def test_answer_rates_of_zero_and_one(raw: tuple[Path, list[Event]], tmp_path: Path) -> None:
    folder, events = raw
    none, everyone = (convert(folder, tmp_path / str(rate), answer_rate=rate)[1] for rate in (0.0, 1.0))
    assert none == []
    assert sum(c["answer"] is not None for row in everyone for c in row["candidates"]) == len(events)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("u.data", "1\t2\t3", r"u\.data: line 2: 3 cells: expected 4 separated by '\\t'"),
        ("u.data", "1\t2\tx\t880000000", r"u\.data: line 2: .*'x'.*expected four integers"),
        ("u.data", "1\t2\t6\t880000000", r"u\.data: line 2: rating 6 is not in 1\.\.5"),
        ("u.data", "99\t2\t3\t880000000", r"u\.data: line 2: user 99 is not in u\.user"),
        ("u.data", "1\t999\t3\t880000000", r"u\.data: line 2: film 999 is not in u\.item"),
        ("u.data", "1\t2\t3\t99999999999999999999", r"u\.data: line 2: .*: expected integers of at most 18"),
        ("u.user", "2|x|M|student|1", r"u\.user: line 2: id '2' and age 'x'"),
        ("u.user", "2|9|X|student|1", r"u\.user: line 2: gender 'X': expected one of \['F', 'M'\]"),
        ("u.user", "2|9|M|sailor|1", r"u\.user: line 2: occupation 'sailor'"),
        ("u.item", "2|short", r"u\.item: line 2: 2 cells: expected 24"),
        ("u.item", "2|t|soon||u" + "|0" * 19, r"u\.item: line 2: release date 'soon'"),
        ("u.item", "2|t|||u" + "|7" * 19, r"u\.item: line 2: genre flags"),
    ],
)
def test_malformed_lines_are_named(
    raw: tuple[Path, list[Event]], tmp_path: Path, name: str, line: str, message: str
) -> None:
    path = raw[0] / name
    lines = path.read_text(encoding="latin-1").splitlines()
    lines[1] = line
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        convert(raw[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_repeated_rating_is_named(raw: tuple[Path, list[Event]], tmp_path: Path) -> None:
    path = raw[0] / "u.data"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[4]]) + "\n")
    with pytest.raises(ValueError, match=rf"line {len(lines) + 1}: user \d+ has already rated film \d+ in line 5"):
        convert(raw[0], tmp_path / "out")


def test_changed_files_of_the_public_size_give_a_warning(raw: tuple[Path, list[Event]]) -> None:
    assert prepare.checksum_warnings(raw[0]) == []
    (raw[0] / "u.user").write_bytes(b"\n" * prepare.SHA256["u.user"][0])
    (warning,) = prepare.checksum_warnings(raw[0])
    assert "u.user" in warning and "not f120e114" in warning


def test_command_line(raw: tuple[Path, list[Event]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out, new = str(raw[0]), str(tmp_path / "out"), str(tmp_path / "new")
    command = [sys.executable, str(SCRIPT), "--raw", folder, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "requests with" in done.stdout
    for arguments, message in (
        (["--raw", str(tmp_path / "nowhere"), "--out", new], "no file u.data"),
        (["--raw", folder, "--out", out], "already exists: delete it"),
        (["--raw", folder, "--out", new, "--candidates", "4"], "--candidates 4: expected more than --watched 4"),
        (["--raw", folder, "--out", new, "--answer-rate", "2"], "--answer-rate 2.0: expected between 0 and 1"),
    ):
        assert prepare.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not Path(new).exists()


@pytest.mark.skipif(
    not (ML100K / "u.data").is_file(),
    reason="MovieLens-100K is not there: set EASQ_ML100K to the directory that holds u.data, u.item and u.user",
)
def test_full_data(tmp_path: Path) -> None:
    events: list[Event] = [
        (int(user), int(film), int(rating), int(at))
        for user, film, rating, at in (line.split("\t") for line in (ML100K / "u.data").read_text().splitlines())
    ]
    assert prepare.checksum_warnings(ML100K) == []
    requests, answers = convert(ML100K, tmp_path / "out", answer_rate=0.05, history=8)
    assert len(events) == 100_000
    check(events, requests, answers, rate=0.05, rows=slice(None, None, 10), history=8)
    assert {len(row["candidates"]) for row in requests} == {12}
