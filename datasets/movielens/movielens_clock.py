"""Another clock for rating events: how far each user has come in their own history.

Training holds out the last part of the time line. On the clock of the log, most held-out users of MovieLens have no
training request. On this clock the last fifth of the time line is the last fifth of every user's history.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from movielens_files import Ratings


def on_user_clock(ratings: Ratings) -> Ratings:
    """The same events, sorted as before, at other times.

    The k-th of a user's n events (k from 0) happens at the share k / n of the log's time line. Events of one second
    stay together, at the time of their first one. So the time between two events is no longer real, and what other
    users did "before" may have happened later.
    """
    events = len(ratings.user)
    here = np.arange(events)
    new_user = np.r_[True, ratings.user[1:] != ratings.user[:-1]]
    new_second = new_user | np.r_[True, ratings.timestamp_s[1:] != ratings.timestamp_s[:-1]]
    user_start = np.maximum.accumulate(np.where(new_user, here, 0))
    second_start = np.maximum.accumulate(np.where(new_second, here, 0))
    lengths = np.diff(np.r_[np.flatnonzero(new_user), events])
    length = np.repeat(lengths, lengths)
    first_s, last_s = int(ratings.timestamp_s.min()), int(ratings.timestamp_s.max())
    # Integers, so that the times are the same on every machine.
    timestamp_s = first_s + (second_start - user_start) * (last_s - first_s) // length
    return dataclasses.replace(ratings, timestamp_s=timestamp_s.astype(ratings.timestamp_s.dtype))
