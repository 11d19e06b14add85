"""Which id has which row of an admitted table (`Table.id_space`): new ids get rows, and ids that are no longer used
lose them.

The rows are divided into sets of `WAYS`, and the hash of an id decides its set. An id waits, and is counted, until it
has occurred `admit_after` times. Then it gets a free row of its set, or the row of the id of the set that was used
longest ago. So a lookup compares `WAYS` ids, however large the table is. Set-associative caches of processors work in
the same way.

The result depends on the ids of each step and on nothing else: any number of ranks gets the same rows.

Legend: S sets, W ways, U different ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from easq_rec.config.schema import WAYS, Table
from easq_rec.data.columns import Array, Rows
from easq_rec.data.encoding import NO_ID, id_sets, mapped_rows

Steps = npt.NDArray[np.int32]
NEVER = -1
"""Stands for the last step of a place that nothing has used."""
NO_ROW = -1


@dataclass(frozen=True, kw_only=True)
class IdMapState:
    """The rows of a table and the ids that wait for one, in places `set * WAYS + way`."""

    id_SW: Rows
    """The id of each row; NO_ID: free."""
    used_SW: Steps
    """The last step that used the row."""
    waiting_SW: Rows
    """Ids that wait; NO_ID: free. Without rows if no id waits (`admit_after` 1)."""
    seen_SW: Steps
    """How often the waiting id has occurred."""
    met_SW: Steps
    """The last step with the waiting id."""

    @staticmethod
    def empty(table: Table) -> IdMapState:
        rows, waiting = (table.sets, WAYS), (table.sets if table.admit_after > 1 else 0, WAYS)
        return IdMapState(
            id_SW=np.full(rows, NO_ID),
            used_SW=np.full(rows, NEVER, np.int32),
            waiting_SW=np.full(waiting, NO_ID),
            seen_SW=np.zeros(waiting, np.int32),
            met_SW=np.full(waiting, NEVER, np.int32),
        )

    def items(self) -> Iterator[tuple[str, Array]]:
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def copy(self) -> IdMapState:
        return IdMapState(**{name: value.copy() for name, value in self.items()})


@dataclass(frozen=True, kw_only=True)
class IdChanges:
    """What one step changes in the map of a table: new values of some places."""

    table: str
    step: int
    used: Rows
    """Rows that the step uses."""
    row: Rows
    """Rows that get another id,"""
    id: Rows
    """and their ids."""
    reset: Rows
    """Those among `row` that another id had: what was learned for it goes."""
    place: Rows
    """Places of waiting ids that change,"""
    waiting: Rows
    """the ids in them,"""
    seen: Steps
    """and how often those have occurred."""
    shared: float
    """Share of the occurrences of ids, in the step, that have no row of their own."""

    def values(self) -> Iterator[tuple[str, Rows, Array]]:
        """(field of `IdMapState`, places, their values)."""
        yield "id_SW", self.row, self.id
        yield "used_SW", self.used, np.full(len(self.used), self.step, np.int32)
        yield "waiting_SW", self.place, self.waiting
        yield "seen_SW", self.place, self.seen
        yield "met_SW", self.place, np.where(self.waiting == NO_ID, NEVER, self.step).astype(np.int32)


class IdMap:
    """Assigns the rows of one admitted table, step by step.

    Args:
        state: is copied.
    """

    def __init__(self, table: Table, state: IdMapState) -> None:
        self._table = table
        self.state = state.copy()
        self._step = max(int(state.used_SW.max()), int(state.met_SW.max(initial=NEVER)))

    def rows(self, ids: Rows) -> Rows:
        """The row of each id; the shared one for ids without a row."""
        return mapped_rows(ids, self.state.id_SW)

    def admit(self, id_U: Rows, count_U: Rows) -> IdChanges:
        """Gives rows to the ids of the next step.

        Args:
            id_U: different ids, in any order.
            count_U: how often each occurs in the step.
        """
        self._step += 1
        state, after = self.state, self._table.admit_after
        # Where more ids want rows than a set can give in one step, those that occur most often come first.
        order = np.lexsort((id_U, -count_U))
        order = order[id_U[order] != NO_ID]
        id_U, seen_U = id_U[order], count_U[order]
        set_U = id_sets(id_U, self._table.sets)
        row_U = _place_of(state.id_SW, id_U, set_U)
        known = row_U[row_U != NO_ROW]
        # A row that this step uses cannot go to another id in the same step.
        state.used_SW.flat[known] = self._step
        new = row_U == NO_ROW
        id_N, set_N, seen_N, count_N = id_U[new], set_U[new], seen_U[new], seen_U[new]
        place_N = np.full(len(id_N), NO_ROW)
        if after > 1:
            place_N = _place_of(state.waiting_SW, id_N, set_N)
            waits = place_N != NO_ROW
            seen_N = seen_N.copy()
            seen_N[waits] += state.seen_SW.flat[place_N[waits]]
        row_N = np.full(len(id_N), NO_ROW)
        ready = seen_N >= after
        row_N[ready] = _oldest(state.used_SW, set_N[ready], before=self._step)
        given = row_N != NO_ROW
        row = row_N[given]
        reset = row[state.id_SW.flat[row] != NO_ID]
        place, waiting, seen = self._wait(id_N, set_N, seen_N, place_N, given)
        changes = IdChanges(
            table=self._table.name,
            step=self._step,
            used=np.concatenate([known, row]),
            row=row,
            id=id_N[given],
            reset=reset,
            place=place,
            waiting=waiting,
            seen=seen,
            shared=1 - float(seen_U[~new].sum() + count_N[given].sum()) / max(float(count_U.sum()), 1.0),
        )
        for name, places, values in changes.values():
            getattr(state, name).flat[places] = values
        return changes

    def _wait(
        self, id_N: Rows, set_N: Rows, seen_N: Rows, place_N: Rows, given: npt.NDArray[np.bool_]
    ) -> tuple[Rows, Rows, Steps]:
        """(places, ids, counts) of waiting ids that change: those that got a row leave, the others stay or come."""
        if self._table.admit_after == 1:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, nothing.astype(np.int32)
        state, waits = self.state, place_N != NO_ROW
        left = place_N[waits & given]
        stays = waits & ~given
        state.met_SW.flat[place_N[stays]] = self._step
        comes = np.flatnonzero(~waits & ~given)
        found = _oldest(state.met_SW, set_N[comes], before=self._step)
        comes, found = comes[found != NO_ROW], found[found != NO_ROW]
        # An id that leaves has been met before this step, so that its place may already have been taken.
        left = np.setdiff1d(left, found)
        kept = np.concatenate([np.flatnonzero(stays), comes])
        place = np.concatenate([place_N[stays], found, left])
        waiting = np.concatenate([id_N[kept], np.full(len(left), NO_ID)])
        seen = np.concatenate([seen_N[kept], np.zeros(len(left), np.int64)])
        return place, waiting, np.minimum(seen, np.iinfo(np.int32).max).astype(np.int32)


def _place_of(held_SW: Rows, id_U: Rows, set_U: Rows) -> Rows:
    """The place of each id; NO_ROW where it has none."""
    same_UW = held_SW[set_U] == id_U[:, None]
    return np.where(same_UW.any(axis=1), set_U * WAYS + same_UW.argmax(axis=1), NO_ROW)


def _oldest(last_SW: Steps, set_K: Rows, *, before: int) -> Rows:
    """A place of its set for each of K demands, those of the longest time without use first, and never one that was
    used in step `before` or later; NO_ROW where none is left. Demands of one set are served in their order."""
    order = np.argsort(set_K, kind="stable")
    set_D, first_D, demand_K = np.unique(set_K[order], return_index=True, return_inverse=True)
    rank_K = np.arange(len(set_K)) - first_D[demand_K]
    oldest_DW = np.argsort(last_SW[set_D], axis=1, kind="stable")
    place_K = set_K[order] * WAYS + oldest_DW[demand_K, np.minimum(rank_K, WAYS - 1)]
    free_K = (rank_K < WAYS) & (last_SW.flat[place_K] < before)
    found = np.empty(len(set_K), np.int64)
    found[order] = np.where(free_K, place_K, NO_ROW)
    return found
