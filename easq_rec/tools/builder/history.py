"""The history of a user at the time of a request: watched impressions with their outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.errors import UserError
from easq_rec.tools.builder.versions import Int, ragged


@dataclass(frozen=True, kw_only=True)
class HistoryRanges:
    """The histories of R requests as ranges of one list of watched impressions."""

    watched: Int
    """(W,) positions of the watched impressions, ordered by user and end of the watch."""
    starts: Int
    """(R,) start of a request's history in `watched`."""
    lengths: Int
    """(R,) length of a request's history."""
    timestamp_ms: Int
    """(W,) start time of each watched impression."""

    def entries(self, requests: Int) -> Int:
        """Positions of the impressions in the histories of some requests, each oldest first."""
        lengths = self.lengths[requests]
        at = ragged(self.starts[requests], lengths)
        began = self.timestamp_ms[at]
        # Overlapping watches end in another order than they began. They are rare: only their lists are sorted.
        owner = np.repeat(np.arange(len(requests)), lengths)
        wrong = np.flatnonzero((np.diff(began) < 0) & (owner[1:] == owner[:-1]))
        if len(wrong):
            chosen = np.flatnonzero(np.isin(owner, owner[wrong]))
            order = np.lexsort((began[chosen], owner[chosen]))
            at[chosen] = at[chosen[order]]
        return self.watched[at]


def histories(
    *,
    user: Int,
    timestamp_ms: Int,
    watch_ms: Int,
    counts: NDArray[np.bool_],
    request_user: Int,
    request_ms: Int,
    longest: int,
) -> HistoryRanges:
    """The history of every request: the last `longest` impressions of the user that `counts` marks and whose watch had
    ended by the request's time.

    Args:
        user, timestamp_ms, watch_ms, counts: columns of the impressions, (n,).
        request_user, request_ms: columns of the requests, (R,).
    """
    marked = np.flatnonzero(counts)
    known_ms = timestamp_ms[marked] + watch_ms[marked]
    order = np.lexsort((timestamp_ms[marked], known_ms, user[marked]))
    marked, known_ms = marked[order], known_ms[order]
    # (user, time) as one number in the same order.
    users, place = np.unique(user[marked], return_inverse=True)
    first = min(int(known_ms.min(initial=0)), int(request_ms.min(initial=0)))
    span = max(int(known_ms.max(initial=0)), int(request_ms.max(initial=0))) - first + 2
    if len(users) * span >= 2**63:
        raise UserError(
            f"{len(users)} users over {span} ms in one bucket are too many: lower engine.bucket_impressions"
        )
    key = place * span + known_ms - first
    at = np.searchsorted(users, request_user)
    known = at < len(users)
    known[known] = users[at[known]] == request_user[known]
    end = np.searchsorted(key, at * span + request_ms - first, side="right")
    start = np.maximum(np.searchsorted(key, at * span, side="left"), end - longest)
    return HistoryRanges(
        watched=marked,
        starts=start,
        lengths=np.where(known, end - start, 0),
        timestamp_ms=timestamp_ms[marked],
    )
