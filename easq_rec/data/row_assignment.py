"""Puts rows in place of the ids of admitted tables, in the requests of one training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.batch import Answers
from easq_rec.data.columns import Array, Ragged, Rows
from easq_rec.data.encode import EncodedRequests, feature_key
from easq_rec.data.id_map import IdChanges, IdMap, IdMapState
from easq_rec.data.kinds import VALUES

GatherNumbers = Callable[[Rows], list[Rows]]
"""Returns the numbers of every rank, in the order of the ranks. All ranks call it equally often."""


def of_one_rank(numbers: Rows) -> list[Rows]:
    """`GatherNumbers` of a run with one rank."""
    return [numbers]


class RowAssigner:
    """Gives rows to the ids of each step, the same on all ranks.

    It works ahead of the model, as batches are made before they are trained on. The model's own maps
    (`easq_rec.model.id_tables`) follow with the changes of each batch.

    Args:
        states: the maps of the model, by table. They are read by `restart`.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        states: Callable[[], Mapping[str, IdMapState]],
        gather: GatherNumbers = of_one_rank,
    ) -> None:
        self._schema, self._states, self._gather = schema, states, gather
        self._tables = [table for table in schema.tables if table.id_space == "admitted"]
        self._maps: dict[str, IdMap] = {}

    @property
    def needed(self) -> bool:
        """Whether the schema has admitted tables."""
        return bool(self._tables)

    def restart(self) -> None:
        """Goes on from the model's maps. Batches that were not trained on do not count."""
        states = self._states() if self._tables else {}
        self._maps = {table.name: IdMap(table, states[table.name]) for table in self._tables}

    def __call__(
        self, stream: EncodedRequests, answers: Answers | None
    ) -> tuple[EncodedRequests, Answers | None, tuple[IdChanges, ...]]:
        """The same requests with rows, and what changes in the maps before their step."""
        if not self._tables:
            return stream, answers, ()
        parts = [stream] if answers is None else [stream, answers.requests]
        ids = {table.name: _ids_of(self._schema, table.name, parts) for table in self._tables}
        found = self._gathered({name: np.unique(each, return_counts=True) for name, each in ids.items()})
        changes = tuple(self._maps[name].admit(*counted) for name, counted in found.items())
        stream, *replayed = (self._with_rows(part) for part in parts)
        if answers is not None:
            answers = dataclasses.replace(answers, requests=replayed[0])
        return stream, answers, changes

    def _gathered(self, counted: Mapping[str, tuple[Rows, Rows]]) -> dict[str, tuple[Rows, Rows]]:
        """The ids of all ranks, and how often each occurs."""
        sizes = np.array([len(ids) for ids, _ in counted.values()])
        ranks = self._gather(np.concatenate([sizes, *(part for pair in counted.values() for part in pair)]))
        if len(ranks) == 1:
            return dict(counted)
        found: dict[str, list[tuple[Rows, Rows]]] = {name: [] for name in counted}
        for numbers in ranks:
            at = len(sizes)
            for name, size in zip(counted, numbers[:at].tolist(), strict=True):
                found[name].append((numbers[at : at + size], numbers[at + size : at + 2 * size]))
                at += 2 * size
        return {name: _added(parts) for name, parts in found.items()}

    def _with_rows(self, part: EncodedRequests) -> EncodedRequests:
        schema = self._schema
        history = self._replaced(part.history.children, schema.history)
        candidates = self._replaced(part.candidates.children, schema.candidate)
        return dataclasses.replace(
            part,
            scalars=self._replaced(part.scalars, schema.user),
            lists=self._replaced(part.lists, schema.user),
            history=dataclasses.replace(part.history, children=history),
            candidates=dataclasses.replace(part.candidates, children=candidates),
        )

    def _replaced(self, columns: Mapping[str, Array | Ragged], features: Sequence[Feature]) -> dict[str, Any]:
        """Columns by name, with rows for ids of admitted tables."""
        found = dict(columns)
        for feature in features:
            key = feature_key(feature)
            if feature.table in self._maps and key in found:
                found[key] = _mapped(found[key], self._maps[str(feature.table)])
        return found


def _mapped(column: Array | Ragged, map_: IdMap) -> Array | Ragged:
    if isinstance(column, Ragged):
        values = map_.rows(column.column(VALUES))
        return dataclasses.replace(column, children={**column.children, VALUES: values})
    return map_.rows(column)


def _ids_of(schema: FeatureSchema, table: str, parts: Sequence[EncodedRequests]) -> Rows:
    """The ids of some requests that use a table.

    Entries of histories do not count in a table that candidates read, too. A step has several times as many ids in its
    histories as among its candidates, and most of them are not shown any more: they would take the rows of those that
    are.
    """
    found: list[Rows] = []
    shown = any(feature.table == table for feature in schema.candidate)
    for part in parts:
        for features, column in (
            (schema.user, part.column),
            (() if shown else schema.history, part.history.children.__getitem__),
            (schema.candidate, part.candidates.children.__getitem__),
        ):
            for feature in features:
                if feature.table == table:
                    values = column(feature_key(feature))
                    found.append(values.column(VALUES) if isinstance(values, Ragged) else values)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _added(parts: Sequence[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    """Ids with their counts added up."""
    ids, place = np.unique(np.concatenate([ids for ids, _ in parts]), return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, place, np.concatenate([count for _, count in parts]))
    return ids, counts
