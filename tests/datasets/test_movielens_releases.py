"""MovieLens conversion: the files of 1M and of 20M to 32M, and random draws of unwatched films from many films."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Warm
from tests.datasets.test_movielens import Event, check, convert, prepare, write_raw

FILES, REQUESTS = sys.modules["movielens_files"], sys.modules["movielens_requests"]
SECOND = 1_000_000_000

Row = dict[str, Any]


def write_1m(folder: Path) -> None:
    folder.mkdir()
    films = [
        "1::Toy Story (1995)::Animation|Children's|Comedy",
        "2::Misérables, Les (1935)::Drama",
        "3::No Year::Sci-Fi",
    ]
    (folder / "movies.dat").write_bytes("".join(f"{line}\n" for line in films).encode("latin-1"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::20::70072-1234\n")
    ratings = [(1, 1, 5, 0), (1, 2, 3, 10), (2, 3, 1, 20), (2, 1, 4, 30)]
    lines = [f"{user}::{film}::{stars}::{SECOND + at}\n" for user, film, stars, at in ratings]
    (folder / "ratings.dat").write_text("".join(lines))


def write_20m(folder: Path) -> None:
    folder.mkdir()
    films = [
        '1,"American President, The (1995)",Comedy|Drama|Romance',
        '7,"""Great Performances"" Cats (1998)",Musical|IMAX',
        "90000,Millions Game (Das Millionenspiel),(no genres listed)",
        '131262,"Série, A (1975– )",Children',
        "131263,Twin Peaks (1989-1991) ,Thriller",
    ]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{line}\n" for line in films))
    ratings = [(1, 1, 0.5, 9), (1, 7, 2.5, 0), (1, 90000, 3.0, 1), (4, 131262, 3.5, 2), (4, 1, 4.0, 3), (4, 7, 5.0, 3)]
    lines = [f"{user},{film},{stars},{SECOND + at}\n" for user, film, stars, at in ratings]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(lines))


def candidates(rows: list[Row]) -> list[Row]:
    return [c for row in rows for c in row["candidates"]]


def test_1m_is_converted(tmp_path: Path) -> None:
    write_1m(tmp_path / "raw")
    requests, answers = convert(tmp_path / "raw", tmp_path / "out", answer_rate=1.0)
    films = {c["video_id"]: (c["tags"], c["decade"]) for c in candidates(requests)}
    assert films == {1: ([3, 4, 5], 9), 2: ([8], 3), 3: ([15], 0)}
    assert {row["user_id"]: tuple(row["user"].values()) for row in requests} == {1: (1, 0, 10), 2: (0, 6, 20)}
    answered = {(row["user_id"], c["video_id"]): c["answer"] for row in answers for c in row["candidates"]}
    assert answered == {(1, 1): 2, (1, 2): 1, (1, 3): None, (2, 1): 2, (2, 2): None, (2, 3): 0}


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("race_films", [10, 1_000_000])
def test_20m_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool, race_films: int) -> None:
    """The files have half stars, quoted titles, missing years, years of a series and missing genres, but no users."""
    monkeypatch.setattr(REQUESTS, "RACE_FILMS", race_films)
    raw = tmp_path / "raw"
    write_20m(raw)
    if windows:
        for file in raw.iterdir():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    requests, answers = convert(raw, tmp_path / "out", answer_rate=1.0)
    films = {c["video_id"]: (c["tags"], c["decade"]) for c in candidates(requests)}
    assert films == {1: ([5, 8, 14], 9), 7: ([12, 19], 9), 90000: ([0], 0), 131262: ([4], 7), 131263: ([16], 8)}
    assert all(row["user"] == {"gender": 2, "age_group": 7, "occupation": 21} for row in requests)
    stars = {c["true_satisfaction"]: c["answer"] for c in candidates(answers)}
    assert stars == {None: None, 0.5: 0, 2.5: 0, 3.0: 1, 3.5: 1, 4.0: 2, 5.0: 2}
    assert [row["timestamp_ms"] // 1_000 - SECOND for row in requests] == [0, 2]


def test_rejection_sampling_keeps_all_guarantees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REQUESTS, "RACE_FILMS", 0)
    monkeypatch.setattr(REQUESTS, "CHUNK", 7)
    events: list[Event] = write_raw(tmp_path / "raw")
    for width in (12, 59):
        requests, answers = convert(tmp_path / "raw", tmp_path / str(width), candidates=width)
        check(events, requests, answers, rate=0.3, rows=slice(None))
        known = 60 - np.array([len(row["history"]) for row in requests])
        assert all(len(row["candidates"]) <= min(width, most) for row, most in zip(requests, known, strict=True))
    assert {len(row["candidates"]) for row in convert(tmp_path / "raw", tmp_path / "again")[0]} == {12}


def test_rejection_and_race_draw_from_the_same_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares how often each film is drawn as unwatched for the last request of the log, over many seeds."""
    write_raw(tmp_path / "raw")
    ratings, _, films = FILES.read(tmp_path / "raw", FILES.RELEASES[0])
    options = {"answer_rate": 0.0, "candidates": 20, "watched": 4, "history": 5}
    share = []
    for race_films in (1_000, 0):
        monkeypatch.setattr(REQUESTS, "RACE_FILMS", race_films)
        offered = np.zeros(61)
        for seed in range(400):
            (requests,) = REQUESTS.build(ratings, films, seed=seed, **options)
            last = requests.film[-int(requests.candidate_count[-1]) :][
                requests.rating[-requests.candidate_count[-1] :] == 0
            ]
            offered[last] += 1
        share.append(offered / 400)
    # The difference between two shares of 400 draws each has a standard deviation of at most 0.035.
    assert np.abs(share[0] - share[1]).max() < 4 * 0.035
    assert np.corrcoef(share)[0, 1] > 0.95 and share[0].std() > 0.1


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("ratings.csv", "1,131264,3.0,1000000000", r"ratings\.csv: line 3: film 131264 is not in movies\.csv"),
        ("ratings.csv", "1,3.0,1000000000", r"ratings\.csv: line 3: 1,3\.0,1000000000: expected four numbers"),
        ("ratings.csv", "1,7,x,1000000000", r"ratings\.csv: line 3: 1,7,x,1000000000: expected four numbers"),
        ("ratings.csv", "1,7,,1000000000", r"ratings\.csv: line 3: .*: expected four numbers"),
        ("ratings.csv", "1,7,3.3,1000000000", r"ratings\.csv: line 3: rating 3\.3 is not in 0\.5, 1, \.\.\., 5"),
        ("ratings.csv", "-1,7,3,1000000000", r"ratings\.csv: line 3: user -1 is not an id up to"),
        ("ratings.csv", "1,7,3,0", r"ratings\.csv: line 3: timestamp 0 is not in unix seconds"),
        ("ratings.csv", "1,1,4.0,1000000099", r"ratings\.csv: line 3: user 1 has already rated film 1 in line 2"),
        ("movies.csv", "7,Cats,Musical|Jazz", r"movies\.csv: line 3: genre 'Jazz': expected some of"),
        ("movies.csv", "7,Cats, The,Musical", r"movies\.csv: line 3: 4 cells: expected 3"),
        ("movies.csv", "x,Cats,Musical", r"movies\.csv: line 3: film 'x': expected an integer"),
        ("movies.csv", "1,Cats,Musical", r"movies\.csv: line 3: film 1 is already in an earlier line"),
    ],
)
def test_malformed_lines_of_20m_are_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    write_20m(tmp_path / "raw")
    path = tmp_path / "raw" / name
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_1m(raw)
    (raw / "users.dat").write_text("1::F::1::21::48067\n")
    for message in ("users.dat: line 1: occupation '21'", "no file users.dat", "has ratings.dat and ratings.csv"):
        assert prepare.main(["--raw", str(raw), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        if (raw / "users.dat").exists():
            (raw / "users.dat").unlink()
        else:
            (raw / "ratings.csv").write_text("")
    (raw / "ratings.dat").unlink()
    (raw / "movies.csv").write_text("movieId,title,genres\n")
    for text, message in (
        ("", "line 1: '': expected the header userId"),
        ("userId,movieId,rating,timestamp\n", "no r"),
    ):
        (raw / "ratings.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            convert(raw, out)


@pytest.mark.parametrize("recipe", ["movielens", "movielens_20m"])
def test_train_on_20m(tmp_path: Path, recipe: str, warm: Warm) -> None:
    write_20m(tmp_path / "raw")
    convert(tmp_path / "raw", tmp_path / "out", answer_rate=1.0, watched=1, candidates=3)
    data = ("--data", str(tmp_path / "out"), "--data.holdout", "0.3", "--run-dir", str(tmp_path / "run"))
    small = ("--trainer.max-steps", "2", "--trainer.batch-size", "2", "--trainer.threads", "1")
    warm.run(warm.python, "-m", "easq_rec.cli", "train", recipe, *data, *small, "--logging.tensorboard", "False")
