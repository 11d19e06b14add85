"""Impressions to requests: by the log's request id, or by sessions of a user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.tools.builder.config import Requests
from easq_rec.tools.builder.versions import Int, mixed


@dataclass(frozen=True, kw_only=True)
class Groups:
    """R requests of a bucket, by user; within a user by request id or time."""

    rows: Int
    """(n,) rows of the bucket, request by request, in each in order of time."""
    starts: Int
    """(R + 1,) where a request's rows begin in `rows`."""
    request_id: Int
    """(R,)"""
    timestamp_ms: Int
    """(R,) the earliest impression of each."""
    duplicates: Int
    """Rows of the bucket that repeat another one and are left out."""

    @property
    def lengths(self) -> Int:
        return np.diff(self.starts)


def group(user: Int, video: Int, timestamp_ms: Int, request: Int | None, rules: Requests) -> Groups:
    """Forms requests; the arguments are columns of a bucket, (rows,), in the order of the log.

    With request ids a request is what shares (user, request id), and a video that it holds already is a duplicate.
    Without, a pause starts a new one, and so does a full one; a duplicate has user, video and time of another row.
    Of duplicates the earliest counts, of equally early ones the first of the log.
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
    """Where a value differs from the one before; the first one does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _repeated(number: Int, video: Int, timestamp_ms: Int | None) -> NDArray[np.bool_]:
    """Which entries repeat (number, video, time) of an earlier one."""
    columns = [number, video] if timestamp_ms is None else [number, video, timestamp_ms]
    key = mixed(*columns)
    ordered = np.sort(key)
    if not (ordered[1:] == ordered[:-1]).any():
        # As a rule there are none, and this is all it takes to know.
        return np.zeros(len(number), np.bool_)
    order = np.lexsort(columns[::-1])
    same = np.ones(max(len(number) - 1, 0), np.bool_)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(number), np.bool_)
    again[order[1:][same]] = True
    return again
