"""Groups rating events into requests, and converts requests to the Arrow tables of the data contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from movielens_files import UNKNOWN_PERSON, Films, Int, People, Ratings
from numpy.typing import NDArray

from easq_rec.data import exact

SMOOTHING = 0.1
"""Rating events added to every film, so that films can be drawn at the start of the log."""
RACE_FILMS = 2_048
"""Up to this number of films, unwatched films are drawn by a race among all films; above it, by rejection."""
ANSWER_DELAY_MS = 60_000
NO_RATING = 0
SATISFIED, UNCERTAIN = 4, 3
"""Minimum number of stars, by answer."""
CHUNK = 131_072
"""Number of requests processed at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """Requests in time order; candidates are ragged, in request order."""

    request_id: Int
    user_id: Int
    timestamp_ms: Int
    history_start: Int
    history_end: Int
    """The history is this range of the rating events."""
    candidate_count: Int
    film: Int
    rating: NDArray[np.float32]
    """Rating of the candidate, NO_RATING if unwatched."""
    known_ms: Int
    """When it was known whether the candidate was watched: at its rating, or at the request's last one."""
    answered_at_ms: Int
    """0: no answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spans:
    """Requests as ranges of the rating events, in time order."""

    start: Int
    end: Int
    user_start: Int
    """The user's first event."""
    history_end: Int
    """The first event of the request's second."""
    past: Int
    """Events of all users before the request's second."""


def build(
    ratings: Ratings, films: Films, *, answer_rate: float, seed: int, candidates: int, watched: int, history: int
) -> Iterator[Requests]:
    """Groups each user's timeline into requests and completes them with unwatched films, `CHUNK` requests at a time.

    A request has the next `watched` films of the user (fewer at the end of the timeline) and is filled to `candidates`
    with unwatched films, drawn without replacement with weights that count the rating events of each film before the
    request. History and popularity use events strictly before the request's timestamp, which is that of its first film;
    they do not use events of the same second.
    """
    rng = np.random.default_rng(seed)
    revealed = rng.random(len(ratings.user)) < answer_rate
    spans = _spans(ratings, watched)
    draw = (_Race if len(films.known) <= RACE_FILMS else _Rejection)(rng, ratings, films, candidates)
    for first in range(0, len(spans.start), CHUNK):
        chunk = Spans(**{field.name: getattr(spans, field.name)[first : first + CHUNK] for field in fields(Spans)})
        film, event, counts = draw.candidates(chunk)
        own = event >= 0
        answered = own & revealed[event]
        last = np.repeat(chunk.end - 1, counts)
        yield Requests(
            request_id=first + np.arange(len(chunk.start)),
            user_id=ratings.user[chunk.start],
            timestamp_ms=ratings.timestamp_s[chunk.start] * 1_000,
            history_start=np.maximum(chunk.user_start, chunk.history_end - history),
            history_end=chunk.history_end,
            candidate_count=counts,
            film=film,
            rating=np.where(own, ratings.rating[event], np.float32(NO_RATING)),
            known_ms=ratings.timestamp_s[np.where(own, event, last)] * 1_000,
            answered_at_ms=np.where(answered, ratings.timestamp_s[event] * 1_000 + ANSWER_DELAY_MS, 0),
        )


def _spans(ratings: Ratings, watched: int) -> Spans:
    events = len(ratings.user)
    here = np.arange(events)
    first_of_user = np.r_[True, ratings.user[1:] != ratings.user[:-1]]
    user_start = np.maximum.accumulate(np.where(first_of_user, here, 0))
    starts = np.flatnonzero((here - user_start) % watched == 0)
    ends = np.r_[starts[1:], events]
    # Time order; requests of one user and second are in timeline order.
    order = np.lexsort((starts, ratings.timestamp_s[starts]))
    starts, ends = starts[order], ends[order]
    # A user's history at a request: the events from the user's first one to the first event of this second.
    same_second = np.r_[False, ~first_of_user[1:] & (ratings.timestamp_s[1:] == ratings.timestamp_s[:-1])]
    second_start = np.maximum.accumulate(np.where(same_second, 0, here))
    past = np.searchsorted(np.sort(ratings.timestamp_s), ratings.timestamp_s[starts], side="left")
    return Spans(start=starts, end=ends, user_start=user_start[starts], history_end=second_start[starts], past=past)


class _Race:
    """Unwatched films by exponential races among all films: a draw without replacement, each film with the rate of
    its popularity. The cost of a request grows with the number of films."""

    def __init__(self, rng: np.random.Generator, ratings: Ratings, films: Films, candidates: int) -> None:
        self.rng, self.ratings, self.wanted = rng, ratings, candidates
        self.clock = np.argsort(ratings.timestamp_s, kind="stable")
        self.popularity = np.where(films.known, SMOOTHING, 0.0)
        self.counted = 0

    def candidates(self, spans: Spans) -> tuple[Int, Int, Int]:
        """(film, its rating event or -1 if unwatched) of every candidate, and candidates per request."""
        film_parts, event_parts, counts = [], [], []
        for start, end, user_start, past in zip(spans.start, spans.end, spans.user_start, spans.past, strict=True):
            np.add.at(self.popularity, self.ratings.film[self.clock[self.counted : past]], 1.0)
            self.counted = past
            weight = self.popularity.copy()
            weight[self.ratings.film[user_start:end]] = 0.0
            possible = np.flatnonzero(weight)
            race = exact.exponential(self.rng, len(possible)) / weight[possible]
            missing = min(self.wanted - (end - start), len(possible))
            others = possible[np.argsort(race, kind="stable")[:missing]]
            shuffled = self.rng.permutation(end - start + missing)
            film_parts.append(np.r_[self.ratings.film[start:end], others][shuffled])
            event_parts.append(np.r_[np.arange(start, end), np.full(missing, -1)][shuffled])
            counts.append(len(shuffled))
        return np.concatenate(film_parts), np.concatenate(event_parts), np.array(counts, dtype=np.int64)


class _Rejection:
    """The same draw for many films: draws the film of a past event, or any film for the smoothing, and rejects films
    that the user has watched or that the request has. The cost of a request does not depend on the number of films."""

    def __init__(self, rng: np.random.Generator, ratings: Ratings, films: Films, candidates: int) -> None:
        self.rng, self.ratings, self.wanted = rng, ratings, candidates
        self.past_film = ratings.film[np.argsort(ratings.timestamp_s, kind="stable")]
        self.films = np.flatnonzero(films.known)
        self.size = len(films.known)
        keys = ratings.user.astype(np.int64) * self.size + ratings.film
        self.watched_event = np.argsort(keys, kind="stable")
        self.watched_key = keys[self.watched_event]

    def candidates(self, spans: Spans) -> tuple[Int, Int, Int]:
        """(film, its rating event or -1 if unwatched) of every candidate, and candidates per request."""
        own = spans.end - spans.start
        missing = np.minimum(self.wanted - own, len(self.films) - (spans.end - spans.user_start))
        event = ranges(spans.start, spans.end)
        owner, film = np.repeat(np.arange(len(own)), own), self.ratings.film[event].astype(np.int64)
        drawn = np.zeros(0, dtype=np.int64)
        need = np.maximum(missing, 0)
        while need.any():
            request = np.repeat(np.arange(len(own)), need)
            offered = self._offer(spans.past[request])
            fresh = ~self._is_watched(self.ratings.user[spans.start[request]], offered, spans.end[request])
            # In draw order; of equal films in a request, the first is kept.
            drawn = np.r_[drawn, (request * self.size + offered)[fresh]]
            _, place = np.unique(drawn, return_index=True)
            drawn = drawn[np.sort(place)]
            need = np.maximum(missing, 0) - np.bincount(drawn // self.size, minlength=len(own))
        owner, film = np.r_[owner, drawn // self.size], np.r_[film, drawn % self.size]
        event = np.r_[event, np.full(len(drawn), -1)]
        order = np.lexsort((self.rng.random(len(owner)), owner))
        return film[order], event[order], own + np.maximum(missing, 0)

    def _offer(self, past: Int) -> Int:
        """Draws one film per entry, with weight SMOOTHING plus its number of events among the first `past`."""
        position = self.rng.random(len(past)) * (past + SMOOTHING * len(self.films))
        any_film = self.films[self.rng.integers(len(self.films), size=len(past))]
        by_event = self.past_film[np.minimum(position.astype(np.int64), np.maximum(past - 1, 0))]
        return np.where(position < past, by_event, any_film).astype(np.int64)

    def _is_watched(self, user: Int, film: Int, end: Int) -> NDArray[np.bool_]:
        """Whether the user has an event of the film before `end`."""
        key = user.astype(np.int64) * self.size + film
        place = np.minimum(np.searchsorted(self.watched_key, key), len(self.watched_key) - 1)
        return (self.watched_key[place] == key) & (self.watched_event[place] < end)


def only_answered(requests: Requests) -> Requests:
    """The requests with at least one answer, with all candidates."""
    row = np.repeat(np.arange(len(requests.request_id)), requests.candidate_count)
    keep = np.zeros(len(requests.request_id), dtype=bool)
    keep[row[requests.answered_at_ms > 0]] = True
    of_candidate = ("film", "rating", "known_ms", "answered_at_ms")
    return Requests(
        **{
            field.name: getattr(requests, field.name)[keep[row] if field.name in of_candidate else keep]
            for field in fields(Requests)
        }
    )


def to_table(requests: Requests, ratings: Ratings, people: People, films: Films, *, answers: bool) -> pa.Table:
    """The Arrow table that `movielens_schema` reads; with `answers`, candidates also have `answer` and
    `answered_at_ms`."""
    user = requests.user_id
    rating = requests.rating
    watched = rating != NO_RATING
    genre = films.genre[requests.film]
    seen = ranges(requests.history_start, requests.history_end)
    history: dict[str, NDArray[Any] | pa.Array] = {
        "video_id": ratings.film[seen].astype(np.int64),
        "timestamp_ms": ratings.timestamp_s[seen] * 1_000,
        # Constant: the rating must not reach the model through the history.
        "watch_ratio": np.ones(len(seen), dtype=np.float32),
    }
    candidates: dict[str, NDArray[Any] | pa.Array] = {
        "video_id": requests.film.astype(np.int64),
        "tags": _lists(genre.sum(axis=1), pa.array(np.nonzero(genre)[1])),
        "decade": films.decade[requests.film],
        "long_view": watched.astype(np.int8),
        "known_ms": requests.known_ms,
        "true_satisfaction": pa.array(rating.astype(np.float32), mask=~watched),
    }
    if answers:
        none = requests.answered_at_ms == 0
        # 2: satisfied, 1: uncertain, 0: dissatisfied.
        answer = (rating >= SATISFIED).astype(np.int8) + (rating >= UNCERTAIN)
        candidates["answer"] = pa.array(answer.astype(np.int8), mask=none)
        candidates["answered_at_ms"] = pa.array(requests.answered_at_ms, mask=none)
    demographics = {
        field.name: getattr(people, field.name)[user] if len(people.gender) else np.full(len(user), unknown)
        for field, unknown in zip(fields(People), UNKNOWN_PERSON, strict=True)
    }
    return pa.table(
        {
            "request_id": requests.request_id,
            "user_id": user.astype(np.int64),
            "timestamp_ms": requests.timestamp_ms,
            "user": _struct(demographics),
            "history": _lists(requests.history_end - requests.history_start, _struct(history)),
            "candidates": _lists(requests.candidate_count, _struct(candidates)),
        }
    )


def ranges(starts: Int, ends: Int) -> Int:
    """start, start + 1, ..., end - 1 of every pair, concatenated."""
    lengths = ends - starts
    offset = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offset, lengths)


def _struct(columns: dict[str, NDArray[Any] | pa.Array]) -> pa.StructArray:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=list(columns))


def _lists(lengths: NDArray[Any], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32)), values)
