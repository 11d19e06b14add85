"""Ids of admitted tables become rows: in every kind of column, on every rank alike, and by the rules for histories."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np

from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import Answers, collate
from easq_rec.data.columns import Ragged, Rows
from easq_rec.data.encode import EncodedRequests, encode, feature_key
from easq_rec.data.id_map import IdMapState
from easq_rec.data.kinds import VALUES
from easq_rec.data.layout import Layout
from easq_rec.data.row_assignment import RowAssigner
from tests.builders import ragged_requests, random_answers, small_config, with_every_kind


def schema_of(rows: int = 129) -> FeatureSchema:
    schema = with_every_kind(small_config().schema)
    tables = tuple(
        dataclasses.replace(table, rows=rows, id_space="admitted") if table.id_space == "hashed" else table
        for table in schema.tables
    )
    return dataclasses.replace(schema, tables=tables)


SCHEMA = schema_of()


def empty() -> dict[str, IdMapState]:
    return {table.name: IdMapState.empty(table) for table in SCHEMA.tables if table.id_space == "admitted"}


def requests_of(seed: int, count: int = 6) -> EncodedRequests:
    return encode(Layout.of(SCHEMA), ragged_requests(SCHEMA, np.random.default_rng(seed), count))


def values_of(column: Any) -> Rows:
    return column.column(VALUES) if isinstance(column, Ragged) else column


def columns_of(requests: EncodedRequests) -> dict[tuple[str, str], Any]:
    """All encoded columns of id features, by group and name."""
    found: dict[tuple[str, str], Any] = {}
    for group, features in (("user", SCHEMA.user), ("history", SCHEMA.history), ("candidate", SCHEMA.candidate)):
        for feature in features:
            if feature.table is not None:
                key = feature_key(feature)
                children = {"history": requests.history.children, "candidate": requests.candidates.children}
                found[group, feature.name] = requests.column(key) if group == "user" else children[group][key]
    return found


def test_every_column_has_the_rows_of_its_ids() -> None:
    stream, replayed = requests_of(0), requests_of(1, 3)
    answers = random_answers(replayed, np.random.default_rng(2))
    assign = RowAssigner(SCHEMA, empty)
    assign.restart()
    found, with_rows, changes = assign(stream, answers)
    assert isinstance(with_rows, Answers) and assign.needed
    tables = {f.name: str(f.table) for f in (*SCHEMA.user, *SCHEMA.history, *SCHEMA.candidate)}
    admitted = set(empty())
    assert {change.table for change in changes} == admitted
    for before, after in ((stream, found), (replayed, with_rows.requests)):
        rows = columns_of(after)
        for (group, name), column in columns_of(before).items():
            ids, got = values_of(column), values_of(rows[group, name])
            if tables[name] not in admitted:
                assert np.array_equal(ids, got)
                continue
            assert np.array_equal(assign._maps[tables[name]].rows(ids), got), (group, name)
            if group != "history":
                assert len(np.unique(got)) == len(np.unique(ids)), "there is room for all"
            if isinstance(column, Ragged):
                assert np.array_equal(column.offsets, rows[group, name].offsets)
    batch = collate(SCHEMA, found, with_rows)
    assert batch.candidate is not None and int(batch.candidate.values().max()) <= 128
    assert np.array_equal(batch.keys.item_N[: len(found.candidates.owners)], stream.candidates.column(SCHEMA.item))


def test_ids_of_histories_take_no_rows_from_candidates() -> None:
    stream = requests_of(0)
    assign = RowAssigner(SCHEMA, empty)
    assign.restart()
    assign(stream, None)
    held = assign._maps["video"].state.id_SW
    shown = stream.candidates.column("feature.video_id")
    past = np.setdiff1d(stream.history.column("feature.video_id"), shown)
    assert len(past) > 5 and np.isin(shown, held).all() and not np.isin(past, held).any()


def test_all_ranks_give_the_rows_of_one() -> None:
    """Two ranks with parts of the requests, and an answer on one of them."""
    whole, answers = requests_of(3, 9), random_answers(requests_of(4, 3), np.random.default_rng(5))
    alone = RowAssigner(SCHEMA, empty)
    alone.restart()
    expected, _, changes = alone(whole, answers)
    parts: list[Rows] = [np.zeros(0, np.int64)] * 2
    meeting = threading.Barrier(2)

    def run(rank: int, results: list[Any]) -> None:
        def gather(numbers: Rows) -> list[Rows]:
            parts[rank] = numbers
            meeting.wait(20)
            return list(parts)

        assign = RowAssigner(SCHEMA, empty, gather)
        assign.restart()
        mine = whole.slice(0, 4) if rank == 0 else whole.slice(4, 9)
        results[rank] = assign(mine, answers if rank else None)

    results: list[Any] = [None, None]
    threads = [threading.Thread(target=run, args=(rank, results)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for found, _, theirs in results:
        for one, other in zip(theirs, changes, strict=True):
            for (name, places, values), (_, where, wanted) in zip(one.values(), other.values(), strict=True):
                assert np.array_equal(places, where) and np.array_equal(values, wanted), name
        assert one.shared == other.shared
        del found
    joined = EncodedRequests.concat([results[0][0], results[1][0]])
    for place, column in columns_of(joined).items():
        assert np.array_equal(values_of(column), values_of(columns_of(expected)[place])), place
