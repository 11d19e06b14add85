"""Groups impressions into requests, by the log's request id or by sessions of a user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.mixing import mixed
from easq_rec.tools.builder.config import Requests
from easq_rec.tools.builder.versions import Int


@dataclass(frozen=True, kw_only=True)
class Groups:
    """R requests of a bucket, ordered by user, then by request id or time."""

    rows: Int
    """(n,) rows of the bucket, ordered by request, then by time."""
    starts: Int
    """(R + 1,) offsets of the requests in `rows`."""
    request_id: Int
    """(R,)"""
    timestamp_ms: Int
    """(R,) time of the earliest impression of each request."""
    duplicates: Int
    """Duplicate rows of the bucket, which are left out."""

    @property
    def lengths(self) -> Int:
        return np.diff(self.starts)


def group(user: Int, video: Int, timestamp_ms: Int, request: Int | None, rules: Requests) -> Groups:
    """Forms requests; the arguments are columns of a bucket, (rows,), in log order.

    With request ids, a request is the set of rows with equal (user, request id), and a repeated video is a duplicate.
    Without, a pause or a full request starts a new one, and a row that repeats (user, video, time) is a duplicate. The
    earliest duplicate is kept; among equal times, the first in the log.
    """
    keys = (timestamp_ms, user) if request is None else (timestamp_ms, request, user)
    rows = np.lexsort(keys)
    new = _changes(user[rows])
    if request is None:
        pause = np.diff(timestamp_ms[rows], prepend=0) > rules.session_gap_s * 1_000
        new |= pause
    else:
        new |= _changes(request[rows])
    number = np.cumsum(new) - 1
    again = _repeated(number, video[rows], timestamp_ms[rows] if request is None else None)
    duplicates = np.sort(rows[again])
    rows, number = rows[~again], number[~again]
    starts = np.flatnonzero(_changes(number))
    if request is None:
        ordinal = np.arange(len(rows)) - starts[number]
        piece = ordinal // rules.max_candidates
        starts = np.flatnonzero(ordinal % rules.max_candidates == 0)
        first = rows[starts]
        ids = mixed(user[first], timestamp_ms[first], piece[starts])
    else:
        first = rows[starts]
        ids = request[first]
    return Groups(
        rows=rows,
        starts=np.append(starts, len(rows)),
        request_id=ids,
        timestamp_ms=timestamp_ms[first],
        duplicates=duplicates,
    )


def _changes(values: Int) -> NDArray[np.bool_]:
    """Whether a value differs from the previous one; True for the first."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _repeated(number: Int, video: Int, timestamp_ms: Int | None) -> NDArray[np.bool_]:
    """Which entries repeat (number, video, time) of an earlier one."""
    columns = [number, video] if timestamp_ms is None else [number, video, timestamp_ms]
    key = mixed(*columns)
    ordered = np.sort(key)
    if not (ordered[1:] == ordered[:-1]).any():
        # Usually there are no duplicates, and this suffices to find that out.
        return np.zeros(len(number), np.bool_)
    order = np.lexsort(columns[::-1])
    same = np.ones(max(len(number) - 1, 0), np.bool_)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(number), np.bool_)
    again[order[1:][same]] = True
    return again
