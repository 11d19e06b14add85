"""Turns MovieLens-100K into the two datasets of easq-rec (`requests/` and `answers/`).

    python datasets/movielens/prepare.py --raw ml-100k --out movielens

A rating event says twofold: that the user watched the film (behaviour, which everyone leaves) and how much it pleased
(satisfaction, of which only a small seeded share is revealed, as a questionnaire would). The model never reads a rating
that is not revealed: it is kept as `true_satisfaction`, for evaluation alone. `README.md` says what maps to what.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Int = NDArray[np.int64]

SHA256 = {
    "u.data": (1_979_173, "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"),
    "u.item": (236_344, "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701"),
    "u.user": (22_628, "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c"),
}
"""File: (bytes, sum) of the public release."""
GENRES = 19
GENDERS = {"M": 0, "F": 1}
AGE_BOUNDS = (18, 25, 35, 45, 50, 56)
"""Lower bounds of age groups 1..6; group 0 is under 18."""
OCCUPATIONS = (
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare"),
    *("homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman"),
    *("scientist", "student", "technician", "writer"),
)
FIRST_DECADE = 1910
"""Decade 1; decade 0 is an unknown release date."""
SMOOTHING = 0.1
"""Rating events that every film is taken to have had before the first: without them nothing could be drawn early on."""
ANSWER_DELAY_MS = 60_000
NO_RATING = 0
MAX_ID = 10_000_000
"""Larger ids of users or films are taken for a damaged file: tables here are indexed by id."""
MAX_TIMESTAMP_S = 2**35
ROW_GROUP = 2_048


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratings:
    """Rating events in order of (user, timestamp, film); every array has one entry per event."""

    user: Int
    film: Int
    rating: Int
    timestamp_s: Int


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """Demographics, indexed by user id; -1: no such user."""

    gender: Int
    age_group: Int
    occupation: Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Films:
    """Genres and decade; rows are indexed by film id (row 0 and gaps are no films)."""

    known: NDArray[np.bool_]
    genre: NDArray[np.bool_]
    """[films, GENRES]"""
    decade: Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """Requests in time order. R requests; candidates and history entries are ragged, in request order."""

    request_id: Int
    user_id: Int
    timestamp_ms: Int
    history_length: Int
    history_film: Int
    history_timestamp_ms: Int
    candidate_count: Int
    film: Int
    rating: Int
    """Of the candidate, NO_RATING if unwatched."""
    answered_at_ms: Int
    """0: no answer."""


def read_ratings(path: Path, people: People, films: Films) -> Ratings:
    """Reads u.data: user, film, rating, unix seconds; tab separated. ValueError names file and line."""
    rows: list[tuple[int, int, int, int]] = []
    seen: dict[tuple[int, int], int] = {}
    for number, cells in _lines(path, "\t", 4):
        try:
            user, film, rating, timestamp = (int(cell) for cell in cells)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}: expected four integers") from error
        if not (0 <= user < len(people.gender) and people.gender[user] >= 0):
            raise ValueError(f"{path}: line {number}: user {user} is not in u.user")
        if not (0 <= film < len(films.known) and films.known[film]):
            raise ValueError(f"{path}: line {number}: film {film} is not in u.item")
        if not 1 <= rating <= 5:
            raise ValueError(f"{path}: line {number}: rating {rating} is not in 1..5")
        if not 0 < timestamp <= MAX_TIMESTAMP_S:
            raise ValueError(f"{path}: line {number}: timestamp {timestamp} is not in unix seconds since 1970")
        first = seen.setdefault((user, film), number)
        if first != number:
            raise ValueError(f"{path}: line {number}: user {user} has rated film {film} in line {first} already")
        rows.append((user, film, rating, timestamp))
    if not rows:
        raise ValueError(f"{path}: no ratings: expected at least one line")
    table = np.array(rows, dtype=np.int64)
    table = table[np.lexsort((table[:, 1], table[:, 3], table[:, 0]))]
    return Ratings(user=table[:, 0], film=table[:, 1], rating=table[:, 2], timestamp_s=table[:, 3])


def read_people(path: Path) -> People:
    """Reads u.user: id, age, gender, occupation, zip code; separated by |."""
    entries: dict[int, tuple[int, int, int]] = {}
    for number, (user, age, gender, occupation, _) in _lines(path, "|", 5):
        if not (_is_id(user) and _is_id(age)):
            raise ValueError(f"{path}: line {number}: id {user!r} and age {age!r}: expected integers up to {MAX_ID}")
        if gender not in GENDERS:
            raise ValueError(f"{path}: line {number}: gender {gender!r}: expected one of {sorted(GENDERS)}")
        if occupation not in OCCUPATIONS:
            raise ValueError(f"{path}: line {number}: occupation {occupation!r}: expected one of {OCCUPATIONS}")
        group = int(np.searchsorted(AGE_BOUNDS, int(age), side="right"))
        entries[int(user)] = (GENDERS[gender], group, OCCUPATIONS.index(occupation))
    table = np.full((max(entries, default=0) + 1, 3), -1, dtype=np.int64)
    for user_id, entry in entries.items():
        table[user_id] = entry
    return People(gender=table[:, 0], age_group=table[:, 1], occupation=table[:, 2])


def read_films(path: Path) -> Films:
    """Reads u.item: id, title, release date, video release date, URL, 19 genre flags; separated by |."""
    entries: dict[int, tuple[list[bool], int]] = {}
    for number, cells in _lines(path, "|", 5 + GENRES):
        flags = cells[5:]
        if not _is_id(cells[0]):
            raise ValueError(f"{path}: line {number}: film {cells[0]!r}: expected an integer up to {MAX_ID}")
        if any(flag not in ("0", "1") for flag in flags):
            raise ValueError(f"{path}: line {number}: genre flags {flags}: expected {GENRES} times 0 or 1")
        year = cells[2].rsplit("-", 1)[-1]
        if cells[2] and not (year.isdecimal() and len(year) == 4):
            raise ValueError(f"{path}: line {number}: release date {cells[2]!r}: expected a form like 01-Jan-1995")
        decade = min(max((int(year) - FIRST_DECADE) // 10 + 1, 1), 15) if cells[2] else 0
        entries[int(cells[0])] = ([flag == "1" for flag in flags], decade)
    rows = max(entries, default=0) + 1
    known, genre, decades = np.zeros(rows, bool), np.zeros((rows, GENRES), bool), np.zeros(rows, np.int64)
    for film, (flag_row, decade) in entries.items():
        known[film], genre[film], decades[film] = True, flag_row, decade
    # Genre 0 is the raw data's own "unknown".
    genre[known & ~genre.any(axis=1), 0] = True
    return Films(known=known, genre=genre, decade=decades)


def _lines(path: Path, separator: str, cells: int) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not empty."""
    result = []
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), start=1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split(separator)
        if len(parts) != cells:
            raise ValueError(f"{path}: line {number}: {len(parts)} cells: expected {cells} separated by {separator!r}")
        result.append((number, parts))
    return result


def _is_id(cell: str) -> bool:
    return cell.isdecimal() and int(cell) <= MAX_ID


def build(
    ratings: Ratings, films: Films, *, answer_rate: float, seed: int, candidates: int, watched: int, history: int
) -> Requests:
    """Groups each user's timeline into requests and completes them with unwatched films.

    A request holds the next `watched` films of the user (fewer at the end of the timeline) and as many unwatched ones
    as bring it to `candidates`, drawn without replacement by the rating events that each film has had before the
    request. History and popularity come from events strictly before the request's timestamp, which is that of its
    first film; events of the same second leave no trace in either.
    """
    rng = np.random.default_rng(seed)
    events = len(ratings.user)
    revealed = rng.random(events) < answer_rate
    first_of_user = np.r_[True, ratings.user[1:] != ratings.user[:-1]]
    user_start = np.maximum.accumulate(np.where(first_of_user, np.arange(events), 0))
    starts = np.flatnonzero((np.arange(events) - user_start) % watched == 0)
    ends = np.r_[starts[1:], events]
    # Time order; the timeline decides among requests of one user and second.
    order = np.lexsort((starts, ratings.timestamp_s[starts]))
    starts, ends = starts[order], ends[order]

    # A user's history at a request: what lies between the user's first event and the first event of this second.
    same_second = np.r_[False, ~first_of_user[1:] & (ratings.timestamp_s[1:] == ratings.timestamp_s[:-1])]
    second_start = np.maximum.accumulate(np.where(same_second, 0, np.arange(events)))
    history_end = second_start[starts]
    history_start = np.maximum(user_start[starts], history_end - history)
    history_rows = np.concatenate([np.arange(a, b) for a, b in zip(history_start, history_end, strict=True)])

    clock = np.argsort(ratings.timestamp_s, kind="stable")
    past = np.searchsorted(ratings.timestamp_s[clock], ratings.timestamp_s[starts], side="left")
    popularity = np.where(films.known, SMOOTHING, 0.0)
    counted = 0
    film_parts, rating_parts, answered_parts, counts = [], [], [], []
    for start, end, before in zip(starts, ends, past, strict=True):
        np.add.at(popularity, ratings.film[clock[counted:before]], 1.0)
        counted = before
        own = slice(start, end)
        weight = popularity.copy()
        weight[ratings.film[user_start[start] : end]] = 0.0
        possible = np.flatnonzero(weight)
        # Exponential races: a draw without replacement, each film with the rate of its popularity.
        race = rng.standard_exponential(len(possible)) / weight[possible]
        missing = min(candidates - (end - start), len(possible))
        others = possible[np.argsort(race)[:missing]]
        shuffled = rng.permutation(end - start + missing)
        nothing = np.zeros(missing, dtype=np.int64)
        answered_at = np.where(revealed[own], ratings.timestamp_s[own] * 1_000 + ANSWER_DELAY_MS, 0)
        film_parts.append(np.r_[ratings.film[own], others][shuffled])
        rating_parts.append(np.r_[ratings.rating[own], nothing + NO_RATING][shuffled])
        answered_parts.append(np.r_[answered_at, nothing][shuffled])
        counts.append(len(shuffled))
    return Requests(
        request_id=np.arange(len(starts)),
        user_id=ratings.user[starts],
        timestamp_ms=ratings.timestamp_s[starts] * 1_000,
        history_length=history_end - history_start,
        history_film=ratings.film[history_rows],
        history_timestamp_ms=ratings.timestamp_s[history_rows] * 1_000,
        candidate_count=np.array(counts, dtype=np.int64),
        film=np.concatenate(film_parts),
        rating=np.concatenate(rating_parts),
        answered_at_ms=np.concatenate(answered_parts),
    )


def only_answered(requests: Requests) -> Requests:
    """The requests with at least one answer, whole."""
    row = np.repeat(np.arange(len(requests.request_id)), requests.candidate_count)
    keep = np.zeros(len(requests.request_id), dtype=bool)
    keep[row[requests.answered_at_ms > 0]] = True
    keep_history, keep_candidate = np.repeat(keep, requests.history_length), keep[row]
    return Requests(
        request_id=requests.request_id[keep],
        user_id=requests.user_id[keep],
        timestamp_ms=requests.timestamp_ms[keep],
        history_length=requests.history_length[keep],
        history_film=requests.history_film[keep_history],
        history_timestamp_ms=requests.history_timestamp_ms[keep_history],
        candidate_count=requests.candidate_count[keep],
        film=requests.film[keep_candidate],
        rating=requests.rating[keep_candidate],
        answered_at_ms=requests.answered_at_ms[keep_candidate],
    )


def to_table(requests: Requests, people: People, films: Films, *, answers: bool) -> pa.Table:
    """The Arrow table that `movielens_schema` reads; with `answers`, candidates carry `answer` and `answered_at_ms`."""
    user = requests.user_id
    watched = requests.rating != NO_RATING
    genre = films.genre[requests.film]
    history: dict[str, NDArray[Any] | pa.Array] = {
        "video_id": requests.history_film,
        "timestamp_ms": requests.history_timestamp_ms,
        # Constant: the rating must not reach the model through the history.
        "watch_ratio": np.ones(len(requests.history_film), dtype=np.float32),
    }
    candidates: dict[str, NDArray[Any] | pa.Array] = {
        "video_id": requests.film,
        "tags": _lists(genre.sum(axis=1), pa.array(np.nonzero(genre)[1])),
        "decade": films.decade[requests.film],
        "long_view": watched.astype(np.int8),
        "true_satisfaction": pa.array(requests.rating.astype(np.float32), mask=~watched),
    }
    if answers:
        none = requests.answered_at_ms == 0
        # Ratings 1, 2: dissatisfied (0); 3: uncertain (1); 4, 5: satisfied (2).
        answer = np.clip(requests.rating - 2, 0, 2).astype(np.int8)
        candidates["answer"] = pa.array(answer, mask=none)
        candidates["answered_at_ms"] = pa.array(requests.answered_at_ms, mask=none)
    return pa.table(
        {
            "request_id": requests.request_id,
            "user_id": user,
            "timestamp_ms": requests.timestamp_ms,
            "user": _struct({field.name: getattr(people, field.name)[user] for field in fields(People)}),
            "history": _lists(requests.history_length, _struct(history)),
            "candidates": _lists(requests.candidate_count, _struct(candidates)),
        }
    )


def _struct(columns: dict[str, NDArray[Any] | pa.Array]) -> pa.StructArray:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=list(columns))


def _lists(lengths: NDArray[Any], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32)), values)


def checksum_warnings(raw: Path) -> list[str]:
    """One line per file that has the size of the public release but not its contents."""
    result = []
    for name, (size, expected) in SHA256.items():
        path = raw / name
        if path.stat().st_size == size:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != expected:
                result.append(f"{path}: SHA-256 is {found}, not {expected} as in the public MovieLens-100K")
    return result


def prepare(raw: Path, out: Path, *, answer_rate: float, seed: int, candidates: int, watched: int, history: int) -> str:
    """Writes `out/requests` and `out/answers`, all or nothing, and returns a line that says what was written."""
    limits: tuple[tuple[str, float, bool, str], ...] = (
        ("answer-rate", answer_rate, 0 <= answer_rate <= 1, "between 0 and 1"),
        ("seed", seed, seed >= 0, "0 or more"),
        ("watched", watched, watched >= 1, "at least 1"),
        ("candidates", candidates, candidates > watched, f"more than --watched {watched}"),
        ("history", history, history >= 1, "at least 1"),
    )
    for name, value, allowed, expected in limits:
        if not allowed:
            raise ValueError(f"--{name} {value}: expected {expected}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists already: delete it or choose another directory")
    for name in SHA256:
        if not (raw / name).is_file():
            raise ValueError(f"--raw {raw}: no file {name}: expected the unpacked MovieLens-100K (ml-100k)")
    for warning in checksum_warnings(raw):
        print(f"warning: {warning}", file=sys.stderr)
    people, films = read_people(raw / "u.user"), read_films(raw / "u.item")
    ratings = read_ratings(raw / "u.data", people, films)
    requests = build(
        ratings, films, answer_rate=answer_rate, seed=seed, candidates=candidates, watched=watched, history=history
    )
    answered = only_answered(requests)

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".{out.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        for name, part, with_answers in (("requests", requests, False), ("answers", answered, True)):
            (temporary / name).mkdir(parents=True)
            table = to_table(part, people, films, answers=with_answers)
            pq.write_table(table, temporary / name / "part-00000.parquet", compression="zstd", row_group_size=ROW_GROUP)
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    answers = int((requests.answered_at_ms > 0).sum())
    return (
        f"{out}: {len(requests.request_id)} requests with {len(requests.film)} candidates, "
        f"{len(ratings.user)} of them watched; {answers} answers in {len(answered.request_id)} requests"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turns MovieLens-100K into the datasets requests/ and answers/ of easq-rec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--raw", type=Path, required=True, help="directory with u.data, u.item and u.user")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; must not exist or be empty")
    parser.add_argument("--answer-rate", type=float, default=0.05, help="share of ratings revealed as answers")
    parser.add_argument("--seed", type=int, default=0, help="of the answers, the unwatched films and their order")
    parser.add_argument("--candidates", type=int, default=12, help="films per request")
    parser.add_argument("--watched", type=int, default=4, help="most of them that the user watched")
    parser.add_argument("--history", type=int, default=50, help="longest history written, in films")
    options = parser.parse_args(arguments)
    try:
        print(prepare(**vars(options)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
