"""Groups impressions of KuaiRand into requests, and converts requests to the Arrow tables of the data contract.

All functions work on whole columns of one part of the users. Legend: R requests, N candidates.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from kuairand_csv import (
    CLICK,
    HATE,
    LONG_VIEW,
    RANDOM_EXPOSURE,
    SATISFIED,
    Users,
    Videos,
    rows_of,
)
from numpy.typing import NDArray

Int = NDArray[np.integer[Any]]
Columns = dict[str, Int]
"""Impressions as `kuairand_csv.log_blocks` yields them."""

ANSWER_DELAY_MS = 60_000
DISSATISFIED, UNCERTAIN, SATISFIED_ANSWER = 0, 1, 2
MAX_RATIO = 2.0
"""Watch ratios are cut at this value, because the model does not distinguish larger ones."""
AGE_BUCKETS = 16
DAY_MS = 86_400_000
BEIJING_MS = 8 * 3_600_000
"""Hours of the day and upload dates are in Beijing time."""
TIME_BITS = 42


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Rules that form requests from impressions."""

    window_ms: int
    """Maximum time from the first impression of a request to its last."""
    candidates: int
    """Maximum number of impressions in a request."""
    history: int
    """Maximum length of a written history."""
    reveal: float
    """Share of the explicit signals that are revealed as answers."""
    seed: int


def in_time_order(rows: Columns, counts: Counter[str]) -> Columns:
    """Impressions sorted by (user, time, video), each once: of rows that agree in all three, the first random exposure
    is kept, or else the first row read."""
    exposed = rows["flags"] & RANDOM_EXPOSURE
    order = np.lexsort((-exposed.astype(np.int8), rows["video"], rows["time_ms"], rows["user"]))
    user, time, video = (rows[name][order] for name in ("user", "time_ms", "video"))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(user) != 0) | (np.diff(time) != 0) | (np.diff(video) != 0)
    counts["repeated rows (left out)"] += int((~new).sum())
    return {name: values[order[new]] for name, values in rows.items()}


def select(rows: Columns, keep: NDArray[np.bool_]) -> Columns:
    return {name: values[keep] for name, values in rows.items()}


def known_ms(rows: Columns) -> Int:
    """Time at which the outcome of an impression was known: the end of its play."""
    return rows["time_ms"] + rows["play_ms"]


def request_starts(rows: Columns, grouping: Grouping) -> Int:
    """First row of each request; rows are in the order of `in_time_order`.

    A request ends when the user or the tab changes, when an impression is more than the window after the request's
    first, when a video repeats, or when the request is full.
    """
    count = len(rows["user"])
    here = np.arange(count)
    change = np.zeros(count, dtype=bool)
    change[1:] = (np.diff(rows["user"]) != 0) | (np.diff(rows["tab"].astype(np.int8)) != 0)
    full = here + grouping.candidates
    late = np.searchsorted(key := _keys(rows["user"], rows["time_ms"]), key + grouping.window_ms, side="right")
    # The next row at which the user or tab changes: a minimum over all later rows.
    change_at = _least_ahead(np.where(change, here, count))
    other = np.r_[change_at[1:], count][:count]
    # For every row, the next impression of its video by the same user; the request ends before the first of these.
    order = np.lexsort((here, rows["video"], rows["user"]))
    same = (np.diff(rows["user"][order]) == 0) & (np.diff(rows["video"][order]) == 0)
    again = np.full(count, count)
    again[order[:-1][same]] = order[1:][same]
    stop = np.minimum.reduce([full, late, other, _least_ahead(again)]).tolist()
    starts, row = [], 0
    while row < count:
        starts.append(row)
        row = stop[row]
    return np.array(starts, dtype=np.int64)


def build(rows: Columns, past: Columns, grouping: Grouping, *, ask: bool) -> pa.RecordBatch:
    """Requests of `rows` in time order, with ids that are not yet joined to their features.

    Args:
        rows: impressions sorted by (user, time, video).
        past: impressions that may enter a history, in the same order. An impression enters if it had a valid play and
            its outcome was known strictly before the request.
        ask: whether a share of the explicit signals is revealed as answers.
    """
    starts = request_starts(rows, grouping)
    ends = np.r_[starts[1:], len(rows["user"])].astype(np.int64)
    order = np.lexsort((starts, rows["time_ms"][starts]))
    starts, ends = starts[order], ends[order]
    request_user, request_ms = rows["user"][starts], rows["time_ms"][starts]

    seen = select(past, (past["flags"] & CLICK) > 0)
    seen_ms = known_ms(seen)
    order = np.lexsort((seen["video"], seen_ms, seen["user"]))
    seen, seen_ms = {name: values[order] for name, values in seen.items()}, seen_ms[order]
    users = np.unique(np.concatenate((seen["user"], request_user)))
    key = _keys(seen["user"], seen_ms, users)
    history_end = np.searchsorted(key, _keys(request_user, request_ms, users), side="left")
    own = np.searchsorted(seen["user"], request_user, side="left")
    history_start = np.maximum(own, history_end - grouping.history)
    entries = _ranges(history_start, history_end)
    duration = seen["duration_ms"][entries]
    played = np.divide(seen["play_ms"][entries], duration, where=duration > 0, out=np.ones(len(entries), np.float32))
    # Without a duration, the log's long view shows whether much of the video was watched.
    ratio = np.where(duration > 0, np.minimum(played, MAX_RATIO), (seen["flags"][entries] & LONG_VIEW) > 0)

    shown = _ranges(starts, ends)
    answered = np.zeros(len(shown), dtype=np.int64)
    if ask:
        at = {name: values[shown] for name, values in rows.items()}
        revealed = ((at["flags"] & (SATISFIED | HATE)) > 0) & (_uniform(at, grouping.seed) < grouping.reveal)
        answered = np.where(revealed, known_ms(at) + ANSWER_DELAY_MS, 0)
    return pa.record_batch(
        {
            "user": request_user,
            "timestamp_ms": request_ms,
            "tab": rows["tab"][starts],
            "history": _lists(
                history_end - history_start,
                _struct(video=seen["video"][entries], known_ms=seen_ms[entries], ratio=ratio.astype(np.float32)),
            ),
            "candidates": _lists(
                ends - starts,
                _struct(
                    **{name: rows[name][shown] for name in ("video", "flags", "play_ms", "duration_ms")},
                    known_ms=known_ms(rows)[shown],
                    answered_at_ms=answered,
                ),
            ),
        }
    )


def to_tables(part: pa.Table, first_id: int, users: Users, videos: Videos, counts: Counter[str]) -> list[pa.Table]:
    """[requests, answers] for `kuairand_schema`, from the result of `build`."""
    user, timestamp, tab = (part[name].to_numpy() for name in ("user", "timestamp_ms", "tab"))
    user_row = rows_of(users.index, user)
    history, seen = _entries(part["history"])
    shown, candidate = _entries(part["candidates"])
    history_row, row = rows_of(videos.index, seen["video"]), rows_of(videos.index, candidate["video"])
    counts["candidates"] += len(row)
    counts["requests of one candidate"] += int((shown == 1).sum())
    counts["requests of users without features"] += int((user_row == users.index[-1]).sum())
    counts["candidates without video features"] += int((row == videos.index[-1]).sum())

    flags, answered_at = candidate["flags"], candidate["answered_at_ms"]
    satisfied, hated = (flags & SATISFIED) > 0, (flags & HATE) > 0
    # Contradictory signals count as uncertain.
    grade = np.where(hated & satisfied, UNCERTAIN, np.where(satisfied, SATISFIED_ANSWER, DISSATISFIED))
    counts["hated and also liked, followed, commented or forwarded"] += int((hated & satisfied).sum())
    day = np.repeat((timestamp + BEIJING_MS) // DAY_MS, shown)
    columns = {
        "video_id": candidate["video"].astype(np.int64),
        "author_id": videos.author[row].astype(np.int64),
        "tags": videos.tags.take(pa.array(row)),
        "duration_ms": candidate["duration_ms"].astype(np.int64),
        "video_type": videos.kind[row],
        "age": age_bucket(day - videos.upload_day[row]),
        "valid_play": (flags & CLICK > 0).astype(np.int8),
        "long_view": (flags & LONG_VIEW > 0).astype(np.int8),
        "watch_ms": candidate["play_ms"].astype(np.int64),
        "known_ms": candidate["known_ms"],
        "true_satisfaction": pa.array(grade.astype(np.float32), mask=~(satisfied | hated)),
    }
    head = {
        "request_id": first_id + np.arange(len(user)),
        "user_id": user.astype(np.int64),
        "timestamp_ms": timestamp,
        "user": _struct(
            tab=tab,
            hour=((timestamp + BEIJING_MS) % DAY_MS // 3_600_000).astype(np.int8),
            **{name: code[user_row] for name, code in users.code.items()},
        ),
        "history": _lists(
            history,
            _struct(
                video_id=seen["video"].astype(np.int64),
                author_id=videos.author[history_row].astype(np.int64),
                timestamp_ms=seen["known_ms"],
                watch_ratio=seen["ratio"],
            ),
        ),
    }
    requests = pa.table({**head, "candidates": _lists(shown, _struct(**columns))})
    none = answered_at == 0
    columns["answer"] = pa.array(grade.astype(np.int8), mask=none)
    columns["answered_at_ms"] = pa.array(answered_at, mask=none)
    holds = np.zeros(len(user), dtype=bool)
    holds[np.repeat(np.arange(len(user)), shown)[~none]] = True
    for name, value in (("satisfied", SATISFIED_ANSWER), ("uncertain", UNCERTAIN), ("dissatisfied", DISSATISFIED)):
        counts[f"answers: {name}"] += int((grade[~none] == value).sum())
    answers = pa.table({**head, "candidates": _lists(shown, _struct(**columns))}).filter(pa.array(holds))
    return [requests, answers]


def age_bucket(days: Int) -> NDArray[np.int8]:
    """0: unknown, or uploaded after the day; else 1 + log2(1 + days), rounded down and limited to the last bucket."""
    # The exponent of a power of two is exact; numpy's logarithm may not be.
    _, bucket = np.frexp(1 + np.maximum(days, 0))
    return np.where(days < 0, 0, np.minimum(bucket, AGE_BUCKETS - 1)).astype(np.int8)


def _keys(user: Int, time_ms: Int, users: Int | None = None) -> Int:
    """One sort key per (user, time); users are numbered by their position in `users`, by default in `user`."""
    number = np.searchsorted(np.unique(user) if users is None else users, user)
    return (number.astype(np.int64) << TIME_BITS) + time_ms


def _least_ahead(values: Int) -> Int:
    """For every position, the minimum from there on."""
    return np.minimum.accumulate(values[::-1])[::-1]


def _ranges(starts: Int, ends: Int) -> Int:
    """start, start + 1, ..., end - 1 of every pair, concatenated."""
    lengths = ends - starts
    offset = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - offset, lengths)


def _uniform(rows: Columns, seed: int) -> NDArray[np.floating[Any]]:
    """A number in [0, 1) per impression that depends only on seed and impression (SplitMix64, Steele et al. 2014), so
    that the revealed answers depend neither on the order of the files nor on the number of parts."""
    state = np.full(len(rows["user"]), seed, dtype=np.uint64)
    for name in ("user", "video", "time_ms"):
        state += rows[name].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53


def _entries(column: pa.ChunkedArray) -> tuple[Int, Columns]:
    """(length of each list, its fields as flat arrays)."""
    array = column.combine_chunks()
    values = array.flatten()
    lengths = np.diff(array.offsets.to_numpy())
    return lengths, {field.name: values.field(field.name).to_numpy() for field in values.type}


def _struct(**columns: NDArray[Any] | pa.Array) -> pa.StructArray:
    arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=list(columns))


def _lists(lengths: NDArray[Any], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32)), values)
