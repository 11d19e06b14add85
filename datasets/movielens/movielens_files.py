"""Reads the public files of MovieLens in all release formats; ValueError names file and line.

100K has u.data, u.item and u.user (tabs and bars), 1M has ratings.dat, movies.dat and users.dat (double colons), and
20M, 25M and 32M have ratings.csv and movies.csv, with half stars and without users.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

Int = NDArray[np.integer[Any]]

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
    # Only in the larger releases
    "IMAX",
)
"""By genre id; the first 19 are the flags of u.item, in their order."""
FLAGS = 19
OTHER_NAMES = {"Children": "Children's", "(no genres listed)": "unknown"}
GENDERS = {"M": 0, "F": 1}
AGE_BOUNDS = (18, 25, 35, 45, 50, 56)
"""Lower bounds of age groups 1..6; group 0 is under 18."""
OCCUPATIONS = (
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare"),
    *("homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman"),
    *("scientist", "student", "technician", "writer"),
)
"""Occupations of 100K; the id is the position. 1M has 21 other occupations, by number."""
UNKNOWN_PERSON = (2, 7, 21)
"""Gender, age group and occupation of all users in releases without a file of users."""
FIRST_DECADE = 1910
"""Decade 1; decade 0 is an unknown release date."""
YEAR = re.compile(r"\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)\s*$")
"""Year at the end of a title: (1995), or (2006-2007) and (1975- ) for series."""
MAX_ID = 10_000_000
"""Larger user or film ids count as a damaged file, because tables are indexed by id."""
MAX_TIMESTAMP_S = 2**35
DIGITS = 18
"""Maximum number of digits that always fit into int64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratings:
    """Rating events sorted by (user, timestamp, film); every array has one entry per event."""

    user: Int
    film: Int
    rating: NDArray[np.float32]
    """0.5 to 5 stars."""
    timestamp_s: Int


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """Demographics, indexed by user id; -1: no such user. Empty if the release has no file of users."""

    gender: Int
    age_group: Int
    occupation: Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Films:
    """Genres and decade, indexed by film id (row 0 and gaps are not films)."""

    known: NDArray[np.bool_]
    genre: NDArray[np.bool_]
    """[films, genres]"""
    decade: Int


@dataclass(frozen=True, kw_only=True)
class Release:
    """The files of a release."""

    name: str
    ratings: str
    films: str
    users: str | None
    separators: tuple[str, str]
    """Of the ratings, and of films and users."""


RELEASES = (
    Release(name="100K", ratings="u.data", films="u.item", users="u.user", separators=("\t", "|")),
    Release(name="1M", ratings="ratings.dat", films="movies.dat", users="users.dat", separators=("::", "::")),
    Release(name="20M", ratings="ratings.csv", films="movies.csv", users=None, separators=(",", ",")),
)


def find_release(raw: Path) -> Release:
    """The release whose ratings are in the directory; ValueError if there is none, or if one of its files is
    missing."""
    found = [release for release in RELEASES if (raw / release.ratings).is_file()]
    if len(found) != 1:
        names = ", ".join(release.ratings for release in RELEASES)
        holds = f"has {' and '.join(release.ratings for release in found)}" if found else f"no file {names}"
        raise ValueError(f"--raw {raw}: {holds}: expected the unpacked files of one MovieLens release")
    (release,) = found
    for name in (release.films, release.users):
        if name is not None and not (raw / name).is_file():
            raise ValueError(f"--raw {raw}: no file {name}: expected the unpacked MovieLens-{release.name}")
    return release


def read(raw: Path, release: Release) -> tuple[Ratings, People, Films]:
    """Reads all files of a release."""
    people = read_people(raw / release.users, release) if release.users else _nobody()
    films = read_films(raw / release.films, release)
    return read_ratings(raw / release.ratings, release, people, films), people, films


def read_ratings(path: Path, release: Release, people: People, films: Films) -> Ratings:
    """Reads user, film, stars and unix seconds; checks that each user rates a film once, and that both are known."""
    half = release.name == "20M"
    user, film, rating, timestamp, line = _rating_csv(path) if half else _rating_lines(path, release)
    if not len(user):
        raise ValueError(f"{path}: no ratings: expected at least one line")
    step, first = (0.5, "0.5, 1") if half else (1.0, "1, 2")
    checks = [
        (_absent(user, people.gender >= 0), "user {} is not in " + str(release.users), user),
        (_absent(film, films.known), f"film {{}} is not in {release.films}", film),
        (
            ~((rating >= step) & (rating <= 5) & (rating / step == np.floor(rating / step))),
            "rating {:g} is not in " + (f"{first}, ..., 5" if half else "1..5"),
            rating,
        ),
        (
            ~((timestamp > 0) & (timestamp <= MAX_TIMESTAMP_S)),
            "timestamp {} is not in unix seconds since 1970",
            timestamp,
        ),
    ]
    if release.users is None:
        bad = (user < 0) | (user > MAX_ID)
        checks[0] = (bad, f"user {{}} is not an id up to {MAX_ID}", user)
    for bad, message, values in checks:
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{path}: line {line[row]}: {message.format(values[row])}")
    order = np.lexsort((np.arange(len(user)), film, user))
    again = np.flatnonzero((np.diff(user[order]) == 0) & (np.diff(film[order]) == 0))
    if len(again):
        earlier, later = order[again], order[again + 1]
        place = int(later.argmin())
        earlier_row, row = earlier[place], later[place]
        what = f"user {user[row]} has already rated film {film[row]} in line {line[earlier_row]}"
        raise ValueError(f"{path}: line {line[row]}: {what}")
    order = np.lexsort((film, timestamp, user))
    return Ratings(
        user=user[order], film=film[order], rating=rating[order].astype(np.float32), timestamp_s=timestamp[order]
    )


def _absent(ids: Int, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside = (ids >= 0) & (ids < len(known))
    result: NDArray[np.bool_] = ~inside
    result[inside] = ~known[ids[inside]]
    return result


def _rating_lines(path: Path, release: Release) -> tuple[Any, ...]:
    rows: list[tuple[int, int, int, int, int]] = []
    for number, cells in _lines(path, release.separators[0], 4):
        try:
            user, film, rating, timestamp = (int(cell) for cell in cells)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}: expected four integers") from error
        if any(len(cell) > DIGITS for cell in cells):
            raise ValueError(f"{path}: line {number}: {cells}: expected integers of at most {DIGITS} digits")
        rows.append((user, film, rating, timestamp, number))
    return tuple(np.array(rows, dtype=np.int64).reshape(-1, 5).T)


def _rating_csv(path: Path) -> tuple[Any, ...]:
    names = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64(), "timestamp": pa.int64()}
    _header(path, tuple(names))
    options = pacsv.ConvertOptions(column_types=names, include_columns=list(names))
    try:
        table = pacsv.read_csv(path, convert_options=options)
        if any(column.null_count for column in table.columns):
            raise pa.ArrowInvalid("an empty cell")
    except pa.ArrowInvalid as error:
        for number, cells in _csv_lines(path):
            fits = len(cells) == 4 and all(re.fullmatch(r"-?\d{1,18}", cell) for cell in (*cells[:2], cells[3]))
            if not fits or not re.fullmatch(r"-?\d{1,18}(\.\d+)?", cells[2]):
                expected = "expected four numbers, all integers except the rating"
                raise ValueError(f"{path}: line {number}: {','.join(cells)}: {expected}") from error
        raise ValueError(f"{path}: cannot be read as CSV: {error}") from error
    columns = [table[name].to_numpy() for name in names]
    user, film = (column.astype(np.int32) if column.max(initial=0) <= MAX_ID else column for column in columns[:2])
    return user, film, columns[2].astype(np.float32), columns[3], np.arange(2, 2 + len(user))


def read_people(path: Path, release: Release) -> People:
    """100K: id, age, gender, occupation, zip code. 1M: id, gender, age, number of the occupation, zip code."""
    entries: dict[int, tuple[int, int, int]] = {}
    for number, cells in _lines(path, release.separators[1], 5):
        user, age, gender, occupation, _ = cells
        if release.name == "1M":
            age, gender = gender, age
        if not (_is_id(user) and _is_id(age)):
            raise ValueError(f"{path}: line {number}: id {user!r} and age {age!r}: expected integers up to {MAX_ID}")
        if gender not in GENDERS:
            raise ValueError(f"{path}: line {number}: gender {gender!r}: expected one of {sorted(GENDERS)}")
        names = OCCUPATIONS if release.name == "100K" else tuple(str(code) for code in range(len(OCCUPATIONS)))
        if occupation not in names:
            raise ValueError(f"{path}: line {number}: occupation {occupation!r}: expected one of {names}")
        group = int(np.searchsorted(AGE_BOUNDS, int(age), side="right"))
        entries[int(user)] = (GENDERS[gender], group, names.index(occupation))
    table = np.full((max(entries, default=0) + 1, 3), -1, dtype=np.int64)
    for user_id, entry in entries.items():
        table[user_id] = entry
    return People(gender=table[:, 0], age_group=table[:, 1], occupation=table[:, 2])


def _nobody() -> People:
    nothing = np.zeros(0, dtype=np.int64)
    return People(gender=nothing, age_group=nothing, occupation=nothing)


def read_films(path: Path, release: Release) -> Films:
    """100K: id, title, release date, video release date, URL, 19 genre flags. Else: id, title (year), genres."""
    entries: dict[int, tuple[list[int], int]] = {}
    width = 5 + FLAGS if release.name == "100K" else 3
    if release.name == "20M":
        _header(path, ("movieId", "title", "genres"))
        rows = _csv_lines(path)
    else:
        rows = _lines(path, release.separators[1], width)
    for number, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{path}: line {number}: {len(cells)} cells: expected {width}")
        if not _is_id(cells[0]):
            raise ValueError(f"{path}: line {number}: film {cells[0]!r}: expected an integer up to {MAX_ID}")
        of_film = _flagged if release.name == "100K" else _named
        try:
            genres, year = of_film(cells)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
        decade = min(max((year - FIRST_DECADE) // 10 + 1, 1), 15) if year else 0
        if int(cells[0]) in entries:
            raise ValueError(f"{path}: line {number}: film {cells[0]} is already in an earlier line")
        entries[int(cells[0])] = genres, decade
    size = max(entries, default=0) + 1
    known, genre, decades = np.zeros(size, bool), np.zeros((size, len(GENRES)), bool), np.zeros(size, np.int64)
    for film, (genres, decade) in entries.items():
        known[film], genre[film, genres], decades[film] = True, True, decade
    # Genre 0 is "unknown" in the raw data.
    genre[known & ~genre.any(axis=1), 0] = True
    return Films(known=known, genre=genre, decade=decades)


def _flagged(cells: list[str]) -> tuple[list[int], int]:
    """(genres, year or 0) of a line of u.item."""
    flags, date = cells[5:], cells[2]
    if any(flag not in ("0", "1") for flag in flags):
        raise ValueError(f"genre flags {flags}: expected {FLAGS} times 0 or 1")
    year = date.rsplit("-", 1)[-1]
    if date and not (year.isdecimal() and len(year) == 4):
        raise ValueError(f"release date {date!r}: expected a form like 01-Jan-1995")
    return [index for index, flag in enumerate(flags) if flag == "1"], int(year) if date else 0


def _named(cells: list[str]) -> tuple[list[int], int]:
    """(genres, year or 0) of a film with its title and the names of its genres."""
    names = [OTHER_NAMES.get(name, name) for name in cells[2].split("|") if name]
    unknown = [name for name in names if name not in GENRES]
    if unknown:
        raise ValueError(f"genre {unknown[0]!r}: expected some of {GENRES} separated by |")
    year = YEAR.search(cells[1])
    return [GENRES.index(name) for name in names], int(year[1]) if year else 0


def _header(path: Path, names: tuple[str, ...]) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if tuple(header) != names:
        raise ValueError(f"{path}: line 1: {','.join(header)!r}: expected the header {','.join(names)}")


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line below the header that is not empty."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for cells in reader:
            if cells:
                yield reader.line_num, cells


def _lines(path: Path, separator: str, cells: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not empty."""
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), start=1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split(separator)
        if len(parts) != cells:
            raise ValueError(f"{path}: line {number}: {len(parts)} cells: expected {cells} separated by {separator!r}")
        yield number, parts


def _is_id(cell: str) -> bool:
    return cell.isdecimal() and int(cell) <= MAX_ID
