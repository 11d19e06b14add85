"""Decayed counts of outcomes or of answers by id, as of the beginning of a bucket of time.

An impression enters the counts once its outcome is known; those of answers, once it is answered. A request sees the
counts at the beginning of its bucket of time, so nothing of the request itself, of its bucket, or of later ones is in
them. The pass over a log (`easq_rec.tools.counts`) and serving use this same state and the same `lookup`.

Shape suffixes: N impressions or candidates, M their ids in a list column (M = N without one), K distinct keys so far,
O outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.config.schema import Count
from easq_rec.data.columns import Array, Ragged, Rows, joined_offsets
from easq_rec.data.id_index import UNKNOWN, IdIndex
from easq_rec.data.kinds import VALUES
from easq_rec.errors import UserError

Floats = npt.NDArray[np.float64]
Keys = tuple[str, ...]
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
MOST_IDS = 2**31
"""Distinct ids of a column, or of some columns together: pairs of their numbers are packed into one int64."""
NOTHING_MS = -(2**62)
"""Time of counts without impressions, before all times."""


@dataclass(frozen=True, kw_only=True)
class CountedImpressions:
    """N impressions with the ids that counts use, and their outcomes."""

    ids: Mapping[str, Array | Ragged]
    """By key of a count, the ids of each impression, (N,) int64 or N lists of them."""
    known_ms: Rows
    """When the outcome of each was known, (N,)."""
    outcomes: Mapping[str, Array]
    """By `Count.counted`, 0 to 1, (N,)."""

    def take(self, rows: Rows) -> CountedImpressions:
        """The impressions `rows`, in that order."""
        return CountedImpressions(
            ids=take(self.ids, rows),
            known_ms=self.known_ms[rows],
            outcomes={name: column[rows] for name, column in self.outcomes.items()},
        )

    @staticmethod
    def concat(parts: Sequence[CountedImpressions]) -> CountedImpressions:
        """The impressions of all parts, which have the same columns."""
        first = parts[0]
        return CountedImpressions(
            ids={name: _joined([part.ids[name] for part in parts]) for name in first.ids},
            known_ms=np.concatenate([part.known_ms for part in parts]),
            outcomes={name: np.concatenate([part.outcomes[name] for part in parts]) for name in first.outcomes},
        )


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One count for N candidates, float64."""

    shown_N: Floats
    """Impressions with the candidate's ids, decayed; the mean over the ids of a list."""
    happened_N: Floats
    """The same impressions, each times its outcome."""
    prior: float
    """The overall rate: see `Overall`."""

    def column(self) -> npt.NDArray[np.float32]:
        """As the reader returns a column of kind `count`: (N, 3) of `COUNT_FIELDS`, float32."""
        prior_N = np.full(len(self.shown_N), self.prior)
        return np.stack([self.shown_N, self.happened_N, prior_N], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Decayed numbers of all impressions, and of those in which an outcome happened."""

    shown: float
    happened: float

    @property
    def prior(self) -> float:
        """The overall rate, with half an impression of each kind added: it is defined and never 0 or 1."""
        return (self.happened + 0.5) / (self.shown + 1)


class CountState:
    """Counts of all impressions whose outcomes were known before `now_ms`.

    Args:
        counts: what is counted: of outcomes, or of answers.
        bucket_minutes: length of the buckets of time, which begin at multiples of it since 1970.
    """

    def __init__(self, counts: Sequence[Count], bucket_minutes: int) -> None:
        self.counts = tuple(counts)
        self.bucket_minutes = bucket_minutes
        self.now_ms = NOTHING_MS
        """Beginning of the bucket that the counts are for."""
        self._indexes: dict[Keys, IdIndex] = {}
        """Numbers of the ids of each column, and of each combination of the first columns of a count."""
        self._tallies: dict[tuple[Keys, float | None], _Tally] = {}
        for count in self.counts:
            # All impressions are counted for the overall rate, too.
            for keys in (count.keys, ()):
                tally = self._tallies.setdefault((keys, count.half_life_h), _Tally(count.half_life_h))
                tally.observe(count.counted)
            for column in count.keys:
                self._indexes.setdefault((column,), IdIndex())
            for length in range(2, len(count.keys) + 1):
                self._indexes.setdefault(count.keys[:length], IdIndex())

    def bucket_ms(self, time_ms: int) -> int:
        """Beginning of the bucket that holds a time."""
        width = self.bucket_minutes * MINUTE_MS
        return time_ms // width * width

    def add(self, impressions: CountedImpressions | None, now_ms: int) -> None:
        """Moves on to `now_ms`, the beginning of a bucket, and adds impressions whose outcomes were known before it.

        Raises UserError if there are too many distinct ids.
        """
        assert now_ms == self.bucket_ms(now_ms) and now_ms >= self.now_ms
        self.now_ms = now_ms
        if impressions is None or not len(impressions.known_ms):
            return
        assert impressions.known_ms.max() < now_ms, "an outcome is not known yet"
        slots = self._slots(impressions.ids, len(impressions.known_ms), self._combinations, add=True)
        groups = {keys: _Group.of(slot) for keys, slot in slots.items()}
        for (keys, _), tally in self._tallies.items():
            tally.add(groups[keys], impressions, now_ms)

    def lookup(self, ids: Mapping[str, Array | Ragged], count: int, at_ms: int) -> dict[str, Counted]:
        """The counts for candidates of a request at `at_ms`, by name.

        Args:
            ids: by key of a count, the ids of each candidate. An id of the request is repeated for each.
            count: number of candidates.
            at_ms: a time in the bucket that begins at `now_ms`, or later.

        Raises:
            UserError: the time lies before that bucket.
        """
        moment = self.bucket_ms(at_ms)
        if moment < self.now_ms:
            raise UserError(f"a request at {at_ms} ms: these counts begin at {self.now_ms} ms, so they know its future")
        slots = self._slots(ids, count, self._combinations, add=False)
        read = {(keys, life): tally.read(slots[keys], moment) for (keys, life), tally in self._tallies.items()}
        found = {}
        for one in self.counts:
            shown_N, happened = read[one.keys, one.half_life_h]
            prior = self.overall(one.counted, one.half_life_h, moment).prior
            found[one.name] = Counted(shown_N=shown_N, happened_N=happened[one.counted], prior=prior)
        return found

    def overall(self, outcome: str, half_life_h: float | None, at_ms: int) -> Overall:
        """All impressions together, at a time from `now_ms` on."""
        tally = self._tallies[(), half_life_h]
        shown, happened = tally.at(np.zeros(1, np.int64), at_ms)
        return Overall(shown=float(shown[0]), happened=float(happened[0, tally.outcomes.index(outcome)]))

    def table(self, count: Count) -> tuple[dict[str, Rows], Floats, Floats]:
        """(ids by key, shown, happened) of a count at `now_ms`, in ascending order of the ids."""
        tally = self._tallies[count.keys, count.half_life_h]
        size = self._size(count.keys)
        shown, happened = tally.at(np.arange(size), self.now_ms)
        columns = self._columns(count.keys)
        order = np.lexsort(tuple(reversed(columns))) if columns else np.arange(size)
        ids = {name: column[order] for name, column in zip(count.keys, columns, strict=True)}
        return ids, shown[order], happened[order, tally.outcomes.index(count.counted)]

    def restore(self, count: Count, ids: Mapping[str, Rows], shown: Floats, happened: Floats) -> None:
        """Takes over what `table` of another state returned for the same `now_ms`."""
        slots = self._slots(ids, len(shown), [count.keys], add=True)[count.keys].slot_M
        self._tallies[count.keys, count.half_life_h].set(slots, count.counted, shown, happened, self.now_ms)

    def _size(self, keys: Keys) -> int:
        """Distinct combinations of ids so far."""
        return len(self._indexes[keys]) if keys else 1

    @property
    def _combinations(self) -> list[Keys]:
        return list(dict.fromkeys(keys for keys, _ in self._tallies))

    def _slots(
        self, ids: Mapping[str, Array | Ragged], count: int, combinations: Sequence[Keys], *, add: bool
    ) -> dict[Keys, _Slots]:
        """For some combinations of keys, the numbers of the ids of `count` entries."""
        names = dict.fromkeys(name for keys in combinations for name in keys)
        numbers: dict[str, Array | Ragged] = {}
        for name in names:
            column = ids[name]
            if isinstance(column, Ragged):
                values = self._number(column.column(VALUES), (name,), add)
                numbers[name] = Ragged(offsets=column.offsets, children={VALUES: values})
            else:
                numbers[name] = self._number(column, (name,), add)
        return {keys: self._combined(keys, numbers, count, add) for keys in combinations}

    def _number(self, ids: Rows, keys: Keys, add: bool) -> Rows:
        index = self._indexes[keys]
        numbers = index.add(ids) if add else index.find(ids)
        if len(index) > MOST_IDS:
            raise UserError(f"counts by {' x '.join(keys)}: more than {MOST_IDS:,} distinct ids: leave this count out")
        return numbers

    def _combined(self, keys: Keys, numbers: Mapping[str, Array | Ragged], count: int, add: bool) -> _Slots:
        lists = [column for name in keys if isinstance(column := numbers[name], Ragged)]
        assert len(lists) <= 1, "one key of a count may be a list"
        lengths_N = lists[0].lengths if lists else None
        slot_M = np.zeros(count, np.int64)
        for length, name in enumerate(keys, start=1):
            column = numbers[name]
            if isinstance(column, Ragged):
                number_M = column.column(VALUES)
            else:
                number_M = column if lengths_N is None else np.repeat(column, lengths_N)
            # Both are below 2**31. With UNKNOWN the pair is negative, and therefore unknown, too.
            slot_M = number_M if length == 1 else self._number((slot_M << 32) | number_M, keys[:length], add)
        return _Slots(slot_M=slot_M, lengths_N=lengths_N)

    def _columns(self, keys: Keys) -> list[Rows]:
        """The ids of each combination of keys, in the order of their numbers."""
        if not keys:
            return []
        found = self._indexes[keys].ids()
        if len(keys) == 1:
            return [found]
        first, last = found >> 32, found & (2**32 - 1)
        return [*(column[first] for column in self._columns(keys[:-1])), self._indexes[keys[-1:]].ids()[last]]


@dataclass(frozen=True, kw_only=True)
class _Slots:
    """Numbers of the ids of N entries."""

    slot_M: Rows
    """UNKNOWN where they have none."""
    lengths_N: Rows | None
    """Ids of each entry; None: one."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The same numbers as entries of their distinct values, for sums by value."""

    slot_S: Rows
    place_M: Rows
    owner_M: Rows | None
    """Entry of each id; None: the ids are the entries'."""

    @staticmethod
    def of(slots: _Slots) -> _Group:
        slot_S, place_M = np.unique(slots.slot_M, return_inverse=True)
        lengths_N = slots.lengths_N
        owner_M = None if lengths_N is None else np.repeat(np.arange(len(lengths_N)), lengths_N)
        return _Group(slot_S=slot_S, place_M=place_M, owner_M=owner_M)

    def sums(self, values_N: Floats) -> Floats:
        """The sum over the entries of each distinct number."""
        values_M = values_N if self.owner_M is None else values_N[self.owner_M]
        return np.bincount(self.place_M, weights=values_M, minlength=len(self.slot_S)).astype(np.float64, copy=False)


class _Tally:
    """Decayed numbers by slot: of impressions, and of each outcome.

    The numbers of a slot are as of its own time, so that only slots with new impressions are written.
    """

    def __init__(self, half_life_h: float | None) -> None:
        self._half_life_ms = None if half_life_h is None else half_life_h * HOUR_MS
        self.outcomes: list[str] = []
        self._shown_K: Floats = np.zeros(0)
        self._happened_KO: Floats = np.zeros((0, 0))
        self._time_K: Rows = np.zeros(0, np.int64)

    def observe(self, outcome: str) -> None:
        """Counts one more outcome; before the first impression."""
        assert not len(self._shown_K)
        if outcome not in self.outcomes:
            self.outcomes.append(outcome)
            self._happened_KO = np.zeros((0, len(self.outcomes)))

    def add(self, group: _Group, impressions: CountedImpressions, now_ms: int) -> None:
        slots_S = group.slot_S
        self._grow(int(slots_S.max(initial=-1)) + 1)
        shown_S, happened_SO = self.at(slots_S, now_ms)
        weight_N = self._decay(now_ms - impressions.known_ms)
        self._shown_K[slots_S] = shown_S + group.sums(weight_N)
        for place, outcome in enumerate(self.outcomes):
            summed_S = group.sums(weight_N * impressions.outcomes[outcome])
            self._happened_KO[slots_S, place] = happened_SO[:, place] + summed_S
        self._time_K[slots_S] = now_ms

    def read(self, slots: _Slots, at_ms: int) -> tuple[Floats, dict[str, Floats]]:
        """(shown, happened by outcome) of N entries: the means over their ids, 0 for unknown ids and empty lists."""
        known_M = slots.slot_M != UNKNOWN
        shown_M, happened_MO = self.at(np.where(known_M, slots.slot_M, 0), at_ms)
        happened = {
            outcome: _mean(happened_MO[:, place] * known_M, slots.lengths_N)
            for place, outcome in enumerate(self.outcomes)
        }
        return _mean(shown_M * known_M, slots.lengths_N), happened

    def at(self, slots: Rows, at_ms: int) -> tuple[Floats, Floats]:
        """(shown, happened by outcome) of slots at a time that is not before theirs; slots may be beyond the last."""
        self._grow(int(slots.max(initial=-1)) + 1)
        factor = self._decay(at_ms - self._time_K[slots])
        return self._shown_K[slots] * factor, self._happened_KO[slots] * factor[:, None]

    def set(self, slots: Rows, outcome: str, shown: Floats, happened: Floats, at_ms: int) -> None:
        """Overwrites the numbers of slots."""
        self._grow(int(slots.max(initial=-1)) + 1)
        self._shown_K[slots], self._time_K[slots] = shown, at_ms
        self._happened_KO[slots, self.outcomes.index(outcome)] = happened

    def _decay(self, age_ms: Rows) -> Floats:
        if self._half_life_ms is None:
            return np.ones(len(age_ms))
        return np.exp2(-age_ms / self._half_life_ms)

    def _grow(self, size: int) -> None:
        """Makes room for slots, at least twice as many as before."""
        if size <= len(self._shown_K):
            return
        more = max(size, 2 * len(self._shown_K)) - len(self._shown_K)
        self._shown_K = np.concatenate([self._shown_K, np.zeros(more)])
        self._happened_KO = np.concatenate([self._happened_KO, np.zeros((more, len(self.outcomes)))])
        self._time_K = np.concatenate([self._time_K, np.full(more, NOTHING_MS)])


def by_bucket(times_ms: Rows, width_ms: int) -> Iterator[tuple[int, Rows]]:
    """(beginning of a bucket, positions of the times in it) for each bucket that has some, in ascending order."""
    bucket = times_ms // width_ms
    order = np.argsort(bucket, kind="stable")
    numbers, lengths = np.unique(bucket, return_counts=True)
    ends = np.cumsum(lengths)
    for number, length, end in zip(numbers.tolist(), lengths, ends, strict=True):
        yield number * width_ms, order[end - length : end]


def take(ids: Mapping[str, Array | Ragged], rows: Rows) -> dict[str, Array | Ragged]:
    """The entries `rows` of each column, in that order."""
    return {name: column.take(rows) if isinstance(column, Ragged) else column[rows] for name, column in ids.items()}


def _joined(parts: Sequence[Array | Ragged]) -> Array | Ragged:
    if isinstance(parts[0], Ragged):
        lists = [part for part in parts if isinstance(part, Ragged)]
        values = np.concatenate([part.column(VALUES) for part in lists])
        return Ragged(offsets=joined_offsets(lists), children={VALUES: values})
    return np.concatenate([part for part in parts if not isinstance(part, Ragged)])


def _mean(values_M: Floats, lengths_N: Rows | None) -> Floats:
    """The mean over the ids of each entry; 0 without ids."""
    if lengths_N is None:
        return values_M
    owner_M = np.repeat(np.arange(len(lengths_N)), lengths_N)
    return np.bincount(owner_M, weights=values_M, minlength=len(lengths_N)) / np.maximum(lengths_N, 1)
