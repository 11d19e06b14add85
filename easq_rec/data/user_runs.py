"""Requests of the same user brought together in a shuffled window.

Losses that compare the candidates of a user need requests of the same user in one batch. A shuffle of a log with many
users spreads them over all batches.

Legend: n rows of a window, m of them requests, in the sequence of the window.
"""

from __future__ import annotations

import numpy as np

from easq_rec.data.columns import Array, Rows


def bring_together(rows: Rows, user: Array, timestamp_ms: Array, longest: int) -> Rows:
    """The same rows in another order, (n,): each run of requests of one user is in one place, in time order.

    The requests of a user, in time order, are cut into runs of at most `longest`. A run takes the place that its first
    request had in the shuffled sequence. The shuffle is uniform, so the order of the runs is as well. If the member
    that comes first in the sequence chose the place, long runs would come early in the window and short ones late.

    Args:
        rows: the shuffled sequence: positions among the window's requests, or -1 for a row in quarantine, whose user is
            not known.
        user: user id of each of the window's requests, (m,).
        timestamp_ms: times of these requests, (m,).
    """
    place_m = np.flatnonzero(rows >= 0)
    request_m = rows[place_m]
    # By user, time and position: the order is the same on every CPU, also of requests at the same time.
    order_m = np.lexsort((request_m, timestamp_ms[request_m], user[request_m]))
    place_m, user_m = place_m[order_m], user[request_m[order_m]]
    in_user_m = np.arange(len(place_m)) - np.searchsorted(user_m, user_m)
    begins_m = in_user_m % longest == 0
    # A row goes to the place of its run, and there to its position in the run. Rows in quarantine stay.
    target_n, within_n = np.arange(len(rows)), np.zeros(len(rows), np.int64)
    target_n[place_m] = place_m[begins_m][np.cumsum(begins_m) - 1]
    within_n[place_m] = in_user_m % longest
    return rows[np.lexsort((within_n, target_n))]
