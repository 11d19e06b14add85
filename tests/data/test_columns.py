"""Columns compared with plain Python lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.data.columns import Ragged, RequestColumns
from tests.data.builders import nested, plain

Entry = tuple[int, list[int]]
"""A list entry with a number and a nested list."""

entries = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(-9, 9), max_size=3)), max_size=4)
columns = st.lists(entries, max_size=6)
few = settings(max_examples=40, deadline=None)


def offsets(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def ragged(lists: list[list[Entry]]) -> Ragged:
    """A column with the children `number` and `tags`, of which `tags` is ragged."""
    flat = [entry for entries in lists for entry in entries]
    tags = [tag for _, tags in flat for tag in tags]
    return Ragged(
        offsets=offsets([len(entries) for entries in lists]),
        children={
            "number": np.array([number for number, _ in flat], dtype=np.int64),
            "tags": Ragged(
                offsets=offsets([len(tags) for _, tags in flat]),
                children={"values": np.array(tags, dtype=np.int64)},
            ),
        },
    )


def unragged(column: Ragged) -> list[list[Entry]]:
    return [list(zip(entry["number"], entry["tags"], strict=True)) for entry in nested(column)]


def draw_rows(data: st.DataObject, number: int) -> list[int]:
    """Rows in any order, possibly repeated."""
    return data.draw(st.lists(st.integers(0, number - 1), max_size=8)) if number else []


@few
@given(columns, st.data())
def test_ragged_take_is_a_selection_of_lists(lists: list[list[Entry]], data: st.DataObject) -> None:
    rows = draw_rows(data, len(lists))
    column = ragged(lists)
    taken = column.take(np.array(rows, dtype=np.int64))
    assert unragged(taken) == [lists[row] for row in rows]
    assert unragged(column) == lists, "the source is unchanged"
    assert taken.offsets.dtype == taken.lists("tags").offsets.dtype == np.int64


@few
@given(columns, st.data())
def test_ragged_keep_is_a_selection_within_lists(lists: list[list[Entry]], data: st.DataObject) -> None:
    flags = [[data.draw(st.booleans()) for _ in entries] for entries in lists]
    kept = ragged(lists).keep(np.flatnonzero([flag for row in flags for flag in row]))
    assert unragged(kept) == [
        [entry for entry, flag in zip(entries, row, strict=True) if flag]
        for entries, row in zip(lists, flags, strict=True)
    ]
    assert kept.offsets.dtype == np.int64


@few
@given(columns, st.data())
def test_taking_lists_whole_or_by_entry_gives_the_same_result(lists: list[list[Entry]], data: st.DataObject) -> None:
    rows = np.array(draw_rows(data, len(lists)), dtype=np.int64)
    column = ragged(lists).slice(0, len(lists))
    whole, by_entry = column._take_runs(rows), column._take_entries(rows)
    assert unragged(whole) == unragged(by_entry) == [lists[row] for row in rows]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.float32, np.float64, np.bool_])
def test_taking_whole_lists_keeps_values_of_any_type(dtype: type) -> None:
    values = np.array([0, 1, 0, 1, 1, 1, 0], dtype) * dtype(1)
    values.flags.writeable = False
    column = Ragged(offsets=offsets([2, 0, 4, 1]), children={"values": values})
    taken = column._take_runs(np.array([2, 0, 2]))
    assert taken.column("values").dtype == dtype
    assert nested(taken) == [{"values": values[rows].tolist()} for rows in (slice(2, 6), slice(0, 2), slice(2, 6))]


@few
@given(columns, st.data())
def test_a_slice_is_a_range_of_lists(lists: list[list[Entry]], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(lists)))
    end = data.draw(st.integers(begin, len(lists)))
    column = ragged(lists)
    part = column.slice(begin, end)
    assert unragged(part) == lists[begin:end]
    assert part.offsets[0] == 0
    assert not len(part.column("number")) or np.shares_memory(part.column("number"), column.column("number"))


@few
@given(columns, st.integers(0, 5))
def test_last_keeps_the_end_of_every_list(lists: list[list[Entry]], limit: int) -> None:
    expected = [entries[len(entries) - min(limit, len(entries)) :] for entries in lists]
    assert unragged(ragged(lists).last(limit)) == expected


@few
@given(columns)
def test_lengths_and_children(lists: list[list[Entry]]) -> None:
    column = ragged(lists)
    assert column.lengths.tolist() == [len(entries) for entries in lists]
    assert column.column("number").tolist() == [number for entries in lists for number, _ in entries]
    assert nested(column.lists("tags")) == [{"values": tags} for entries in lists for _, tags in entries]


def requests(lists: list[list[Entry]], *, first_id: int = 0) -> RequestColumns:
    """Requests whose user list, history and candidates all differ from one another."""
    return RequestColumns(
        scalars={
            "request_id": np.arange(first_id, first_id + len(lists)),
            "user_id": -np.arange(len(lists)),
            "timestamp_ms": np.arange(len(lists)) * 1_000,
            "user.region": np.arange(len(lists), dtype=np.int32) % 3,
        },
        lists={
            "user.interests": Ragged(
                offsets=offsets([len(entries) for entries in lists]),
                children={"values": np.array([number for entries in lists for number, _ in entries], dtype=np.int64)},
            )
        },
        history=ragged(lists),
        candidates=ragged(lists[::-1]),
    )


@few
@given(columns, st.data())
def test_requests_take(lists: list[list[Entry]], data: st.DataObject) -> None:
    rows = draw_rows(data, len(lists))
    everything = requests(lists)
    taken = everything.take(np.array(rows, dtype=np.int64))
    assert len(taken) == len(rows)
    assert plain(taken) == [plain(everything)[row] for row in rows]


@few
@given(columns, st.data())
def test_requests_slice(lists: list[list[Entry]], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(lists)))
    end = data.draw(st.integers(begin, len(lists)))
    everything = requests(lists)
    assert plain(everything.slice(begin, end)) == plain(everything)[begin:end]


@few
@given(st.lists(columns, min_size=1, max_size=4))
def test_requests_concat(parts: list[list[list[Entry]]]) -> None:
    separate = [requests(lists, first_id=100 * number) for number, lists in enumerate(parts)]
    together = RequestColumns.concat(separate)
    assert plain(together) == [row for part in separate for row in plain(part)]
    assert together.timestamp_ms.tolist() == [time for part in separate for time in part.timestamp_ms]


@few
@given(columns)
def test_a_blank_request_has_the_same_columns_and_no_content(lists: list[list[Entry]]) -> None:
    source = requests(lists)
    blank = source.blank()
    assert plain(blank) == [
        {
            "request_id": 0,
            "user_id": 0,
            "timestamp_ms": 0,
            "user.region": 0,
            "user.interests": [],
            "history": {"number": [], "tags": []},
            "candidates": {"number": [0], "tags": [[]]},
        }
    ]
    assert {name: column.dtype for name, column in blank.scalars.items()} == {
        name: column.dtype for name, column in source.scalars.items()
    }
    assert plain(RequestColumns.concat([source, blank])) == plain(source) + plain(blank)


def test_accessors_reject_children_of_the_other_kind() -> None:
    column = ragged([[(1, [2])]])
    with pytest.raises(AssertionError, match="tags"):
        column.column("tags")
    with pytest.raises(AssertionError, match="number"):
        column.lists("number")
