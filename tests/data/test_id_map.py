"""The map of an admitted table: who gets which row, against a slow reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.config.schema import WAYS, Table
from easq_rec.data.encoding import NO_ID, id_sets, mapped_rows
from easq_rec.data.id_map import NEVER, IdMap, IdMapState


@dataclass
class Place:
    """A row, or a place of a waiting id, of the reference."""

    id: int = NO_ID
    used: int = NEVER
    seen: int = 0


@dataclass
class Reference:
    """The same rules, id by id."""

    table: Table
    step: int = -1
    rows: list[Place] = field(default_factory=list)
    waiting: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [Place() for _ in range(self.table.sets * WAYS)]
        self.waiting = [Place() for _ in range(self.table.sets * WAYS)]

    def of_set(self, places: list[Place], number: int) -> list[Place]:
        return places[number * WAYS : (number + 1) * WAYS]

    def row(self, wanted: int) -> int:
        found = [place for place, one in enumerate(self.rows) if one.id == wanted != NO_ID]
        return found[0] if found else len(self.rows)

    def admit(self, counts: dict[int, int]) -> set[int]:
        """Returns the rows that were reset."""
        self.step += 1
        new, reset = [], set()
        for one in sorted(counts, key=lambda one: (-counts[one], one)):
            if one == NO_ID:
                continue
            if (row := self.row(one)) < len(self.rows):
                self.rows[row].used = self.step
            else:
                new.append(one)
        number = {one: int(id_sets(np.array([one]), self.table.sets)[0]) for one in new}
        seen, held = dict(counts), {}
        for one in new:
            for place in self.of_set(self.waiting, number[one]):
                if place.id == one:
                    held[one] = place
                    seen[one] += place.seen
        given = set()
        for one in new:
            rows = [place for place in self.of_set(self.rows, number[one]) if place.used < self.step]
            if seen[one] < self.table.admit_after or not rows:
                continue
            place = min(rows, key=lambda place: place.used)
            if place.id != NO_ID:
                reset.add(next(index for index, row in enumerate(self.rows) if row is place))
            place.id, place.used = one, self.step
            given.add(one)
        if self.table.admit_after == 1:
            return reset
        for one, place in held.items():
            if one not in given:
                place.used, place.seen = self.step, seen[one]
        for one in new:
            places = [place for place in self.of_set(self.waiting, number[one]) if place.used < self.step]
            if one not in given and one not in held and places:
                place = min(places, key=lambda place: place.used)
                place.id, place.used, place.seen = one, self.step, seen[one]
        for one, place in held.items():
            if one in given and place.id == one:
                place.id, place.used, place.seen = NO_ID, NEVER, 0
        return reset


def table_of(sets: int, admit_after: int = 1) -> Table:
    return Table(name="video", rows=sets * WAYS + 1, dim=4, id_space="admitted", admit_after=admit_after)


def admit(map_: IdMap, counts: dict[int, int]) -> set[int]:
    changes = map_.admit(np.array(list(counts), np.int64), np.array(list(counts.values()), np.int64))
    return set(changes.reset.tolist())


IDS = st.one_of(st.integers(0, 60), st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(IDS, st.integers(1, 4), max_size=50), max_size=12),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_rows_are_those_of_the_reference(steps: list[dict[int, int]], sets: int, admit_after: int) -> None:
    table = table_of(sets, admit_after)
    found, expected = IdMap(table, IdMapState.empty(table)), Reference(table)
    replayed = IdMapState.empty(table)
    for counts in steps:
        before = found.state.copy()
        assert admit(found, counts) == expected.admit(counts)
        ids = np.array([*counts, 0, 1, 2, NO_ID], np.int64)
        assert found.rows(ids).tolist() == [expected.row(one) for one in ids.tolist()]
        # A map that starts from the state in between goes on alike.
        again = IdMap(table, before)
        again._step = found._step - 1
        changes = again.admit(np.array(list(counts), np.int64), np.array(list(counts.values()), np.int64))
        for name, places, values in changes.values():
            getattr(replayed, name).flat[places] = values
        for (name, one), (_, other) in zip(replayed.items(), found.state.items(), strict=True):
            assert np.array_equal(one, other), name
    assert found.state.id_SW.flatten().tolist() == [row.id for row in expected.rows]
    if admit_after > 1:
        assert found.state.waiting_SW.flatten().tolist() == [place.id for place in expected.waiting]
        assert found.state.seen_SW.flatten().tolist() == [place.seen for place in expected.waiting]


@given(st.lists(IDS, min_size=1), st.integers(1, 7))
def test_tensors_have_the_rows_of_arrays(ids: list[int], sets: int) -> None:
    table = table_of(sets)
    map_ = IdMap(table, IdMapState.empty(table))
    admit(map_, dict.fromkeys(ids[::2], 1))
    wanted = np.array(ids, np.int64)
    expected = map_.rows(wanted)
    assert mapped_rows(torch.from_numpy(wanted), torch.from_numpy(map_.state.id_SW)).tolist() == expected.tolist()
    assert set(expected.tolist()) <= set(range(sets * WAYS + 1))


def test_an_id_waits_until_it_has_occurred_often_enough() -> None:
    table = table_of(4, admit_after=3)
    map_, shared = IdMap(table, IdMapState.empty(table)), 4 * WAYS
    admit(map_, {7: 2})
    assert map_.rows(np.array([7])).tolist() == [shared]
    admit(map_, {8: 1})
    admit(map_, {7: 1})
    assert map_.rows(np.array([7]))[0] < shared
    assert map_.rows(np.array([8])).tolist() == [shared]
    assert 7 not in map_.state.waiting_SW


def test_the_id_that_was_used_longest_ago_loses_its_row() -> None:
    table = table_of(1)
    map_ = IdMap(table, IdMapState.empty(table))
    for one in range(WAYS):
        assert not admit(map_, {one: 1}), "a free row needs no reset"
    admit(map_, {0: 1})
    assert admit(map_, {100: 1}) == {1}
    assert map_.rows(np.array([0, 1, 100])).tolist() == [0, WAYS, 1]


def test_the_share_of_occurrences_without_a_row() -> None:
    table = table_of(1, admit_after=2)
    map_ = IdMap(table, IdMapState.empty(table))
    ids, count = np.array([1, 2, 3]), np.array([1, 5, 2])
    assert map_.admit(ids, count).shared == pytest.approx(1 / 8)
    assert map_.admit(ids, count).shared == 0
    assert map_.admit(np.arange(10, 40), np.full(30, 2)).shared == pytest.approx(14 / 30)


def test_a_row_that_the_step_uses_stays() -> None:
    table = table_of(1)
    map_ = IdMap(table, IdMapState.empty(table))
    admit(map_, dict.fromkeys(range(WAYS), 1))
    assert not admit(map_, {**dict.fromkeys(range(WAYS), 1), 99: 5})
    assert map_.rows(np.array([99])).tolist() == [WAYS]
    assert len(admit(map_, dict.fromkeys(range(200, 220), 1))) == WAYS, "all rows at once, and not more"


def test_sets_are_about_equally_large() -> None:
    count_S = np.bincount(id_sets(np.arange(160_000), 100), minlength=100)
    assert count_S.min() > 1_400 and count_S.max() < 1_800
    spread = np.bincount(id_sets(np.arange(160_000) * 4_096, 100), minlength=100)
    assert spread.min() > 1_400 and spread.max() < 1_800


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rows": WAYS}, "rows=16"), ({"admit_after": 0}, "admit_after=0"), ({"id_space": "hashed"}, "admit_after=2")],
)
def test_impossible_tables_are_refused(changes: dict[str, object], message: str) -> None:
    values = {"name": "video", "rows": 64, "dim": 4, "id_space": "admitted", "admit_after": 2} | changes
    with pytest.raises(Exception, match=message):
        Table(**values)  # type: ignore[arg-type]
