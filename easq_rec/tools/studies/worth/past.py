"""What was known before each answered impression: means of earlier outcomes and of earlier answers, by id.

Both are the counts of `easq_rec.data.counts`, in buckets of time: an impression is counted once its outcomes are known,
an answer once it is given, and an impression of a bucket sees what was known when the bucket began.

A mean is shrunk to the overall mean by empirical Bayes. Its strength, in impressions or answers, is that which the
spread of the means between ids implies.

Shape suffixes: A answered impressions, N impressions of a row group, G ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.schema import Count
from easq_rec.data.columns import Array, Ragged, RequestColumns, Rows
from easq_rec.data.counts import MINUTE_MS, CountedImpressions, CountState, Floats, by_bucket, take
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.kinds import VALUES
from easq_rec.tools.counts.waiting import Waiting
from easq_rec.tools.studies.worth.answered import Answered
from easq_rec.tools.studies.worth.columns import USER, Chosen, as_rates, behaviour, ids_of, known_ms

BUCKETS = 300
"""Buckets of time of the whole log, at most; none is shorter than `SHORTEST` minutes."""
SHORTEST = 60
ANSWER = "answer"
WEAKEST, STRONGEST = 1.0, 1e5
"""Limits of the strength."""
USUAL = 20.0
"""Strength where there are too few ids to estimate it."""
LEAST_IDS = 5
EDGE = 1e-6
"""Rates are kept this far from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """One mean over what happened before, for each answered impression."""

    shown_A: Floats
    """Impressions, or answers, with the same id; the mean over the ids of a list."""
    sum_A: Floats
    """Sum of their outcomes."""
    prior_A: Floats
    """Overall mean at the time."""
    all_A: Floats
    """Impressions, or answers, of all ids together."""

    @property
    def popularity(self) -> Floats:
        """(A,): logarithm of the id's share of all impressions. Their number itself would grow with time beyond the
        range that a model was fitted to."""
        return np.log((self.shown_A + 1) / (self.all_A + 1))

    def effect(self, strength: float) -> Floats:
        """(A,): logit of the shrunk mean minus that of the overall mean; 0 where nothing is known."""
        mean_A = (self.sum_A + strength * self.prior_A) / (self.shown_A + strength)
        return _logit(mean_A) - _logit(self.prior_A)


def bucket_minutes(answered: Answered) -> int:
    """Length of the buckets of time."""
    span_ms = int(answered.request_ms_A[-1] - answered.request_ms_A[0])
    return max(SHORTEST, -(-span_ms // (BUCKETS * MINUTE_MS)))


def past_behaviour(
    chosen: Chosen,
    answered: Answered,
    requests: RequestDataset,
    *,
    minutes: int,
    see: Callable[[RequestColumns], None] = lambda _: None,
) -> dict[tuple[str, str], Past]:
    """Means of all earlier impressions by (key, outcome), in one pass over the log in the order of time.

    Args:
        minutes: length of the buckets of time.
        see: called with each row group.
    """
    pairs = [(key, name) for key in chosen.keys for name in chosen.rates]
    past = _Past(
        [Count(name=f"c{index}", outcome=name, keys=(key,)) for index, (key, name) in enumerate(pairs)], minutes
    )
    ahead = deque(group for group in requests.row_groups if group.rows)

    def read_until(end_ms: float) -> None:
        """What was known before a time was shown before it."""
        while ahead and ahead[0].first_ms < end_ms:
            columns = requests.read(ahead.popleft())
            see(columns)
            past.add(
                CountedImpressions(
                    ids=ids_of(chosen, columns),
                    known_ms=known_ms(chosen, columns),
                    outcomes=as_rates(chosen, behaviour(chosen, columns)),
                )
            )

    found = past.as_of(answered.ids, answered.request_ms_A, read_until)
    read_until(np.inf)
    return dict(zip(pairs, found, strict=True))


def past_answers(
    answered: Answered, known_A: NDArray[np.bool_], *, minutes: int, without_own: bool = False
) -> dict[str, Past]:
    """Means of all earlier answers by key.

    Args:
        known_A: the answers that exist; the means for all others are computed from these, too.
        minutes: length of the buckets of time.
        without_own: leaves out the answers of the same user, and the key of the user.
    """
    keys = [key for key in answered.ids if key != USER or not without_own]
    combinations: list[tuple[str, ...]] = [(key,) for key in keys]
    combinations += [(key, USER) for key in keys] if without_own else []
    counts = [Count(name=f"c{index}", outcome=ANSWER, keys=both) for index, both in enumerate(combinations)]
    past, rows = _Past(counts, minutes), np.flatnonzero(known_A)
    past.add(
        CountedImpressions(
            ids=take(answered.ids, rows),
            known_ms=answered.answered_ms_A[rows],
            outcomes={ANSWER: answered.value_A[rows]},
        )
    )
    found = past.as_of(answered.ids, answered.request_ms_A)
    if not without_own:
        return dict(zip(keys, found, strict=True))
    return {
        key: Past(
            shown_A=all_.shown_A - own.shown_A, sum_A=all_.sum_A - own.sum_A, prior_A=all_.prior_A, all_A=all_.all_A
        )
        for key, all_, own in zip(keys, found[: len(keys)], found[len(keys) :], strict=True)
    }


class _Past:
    """Counts that move on through time."""

    def __init__(self, counts: Sequence[Count], minutes: int) -> None:
        self._state = CountState(counts, minutes)
        self._width = minutes * MINUTE_MS
        self._waiting = Waiting(self._width)

    def add(self, impressions: CountedImpressions) -> None:
        self._waiting.add(impressions)

    def as_of(
        self, ids: Mapping[str, Array | Ragged], times_ms: Rows, read_until: Callable[[float], None] = lambda _: None
    ) -> list[Past]:
        """The means for entries at these times, in the order of the counts."""
        table, all_A = np.zeros((len(self._state.counts), 3, len(times_ms))), np.zeros(len(times_ms))
        for start_ms, rows in by_bucket(times_ms, self._width):
            read_until(start_ms)
            self._state.add(self._waiting.take_before(start_ms), start_ms)
            found = self._state.lookup(take(ids, rows), len(rows), start_ms)
            all_A[rows] = self._state.overall(self._state.counts[0].counted, None, start_ms).shown
            for index, count in enumerate(self._state.counts):
                one = found[count.name]
                table[index, 0, rows], table[index, 1, rows], table[index, 2, rows] = (
                    one.shown_N, one.happened_N, one.prior,
                )  # fmt: skip
        return [Past(shown_A=shown_A, sum_A=sum_A, prior_A=prior_A, all_A=all_A) for shown_A, sum_A, prior_A in table]


def strength(past: Past, group_A: Rows, among_A: NDArray[np.bool_]) -> float:
    """The prior strength that the spread between ids implies, by the method of moments, from some of the rows.

    Args:
        group_A: number of the id of each row.
        among_A: the rows to use. Of each id the latest one counts.
    """
    rows = np.flatnonzero(among_A & (past.shown_A > 0))
    # The first place in reversed order is that of the latest row.
    _, latest = np.unique(group_A[rows][::-1], return_index=True)
    rows = rows[::-1][latest]
    if len(rows) < LEAST_IDS:
        return USUAL
    shown_G, sum_G = past.shown_A[rows], past.sum_A[rows]
    total = shown_G.sum()
    mean = sum_G.sum() / total
    within = mean * (1 - mean)
    if within <= 0:
        return USUAL
    spread = (shown_G * (sum_G / shown_G - mean) ** 2).sum()
    between = (spread - (len(rows) - 1) * within) / (total - (shown_G**2).sum() / total)
    if not between > 0:
        return STRONGEST
    return float(np.clip(within / between - 1, WEAKEST, STRONGEST))


def group_of(ids: Array | Ragged) -> Rows:
    """A number for each distinct id, or for each distinct list of ids."""
    if not isinstance(ids, Ragged):
        return np.unique(ids, return_inverse=True)[1]
    values, lengths = ids.column(VALUES), ids.lengths
    # A polynomial of the ids modulo 2**64: two lists with the same number would only share a prior's estimate.
    place = np.arange(len(values)) - np.repeat(ids.offsets[:-1], lengths)
    mixed = (values.astype(np.uint64) + np.uint64(1)) * (
        place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    )
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return np.unique(sums[ids.offsets[1:]] - sums[ids.offsets[:-1]], return_inverse=True)[1]


def _logit(rate: Floats) -> Floats:
    clipped = np.clip(rate, EDGE, 1 - EDGE)
    return np.log(clipped / (1 - clipped))
