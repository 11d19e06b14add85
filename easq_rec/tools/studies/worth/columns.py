"""The columns that study `worth` reads of a feature schema: ids, behaviour and context of the candidates.

Shape suffix: N candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from easq_rec.config.schema import FeatureSchema
from easq_rec.data import files
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.counts import Floats
from easq_rec.data.dataset import RequestDataset
from easq_rec.data.kinds import Column, Kind
from easq_rec.data.layout import Layout, leaf_types
from easq_rec.errors import UserError

USER = "user_id"
ACTIONS = ("long_view", "valid_play", "like", "follow", "comment", "forward", "hate")
"""Outcomes that are read where the files have them, although the schema may not name them. What happens days later,
such as a return to the app, is not among them: it is no outcome of the impression that was known in time."""
WATCH, DURATION, KNOWN = "watch_ms", "duration_ms", "known_ms"
WATCH_TIME, WATCHED_SHARE = "watch time", "share watched"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is read."""

    schema: FeatureSchema
    keys: tuple[str, ...]
    """Id columns by which impressions and answers are counted: those of the candidates, and the user."""
    numbers: tuple[str, ...]
    """Candidate features that are numbers: the context."""
    actions: tuple[str, ...]
    """Of `ACTIONS`, those that only the files name."""
    times: tuple[str, ...]
    """Of `WATCH`, `DURATION` and `KNOWN`, those that the files have."""

    @property
    def outcomes(self) -> list[str]:
        """Names of the columns of `behaviour`."""
        watched = [WATCH_TIME, *([WATCHED_SHARE] if DURATION in self.times else [])] if WATCH in self.times else []
        return [*(outcome.name for outcome in self.schema.outcomes), *self.actions, *watched]

    @property
    def rates(self) -> list[str]:
        """The outcomes whose means over earlier impressions are known: all but the watch time, which repeats the share
        watched where there is one."""
        return [name for name in self.outcomes if name != WATCH_TIME or WATCHED_SHARE not in self.outcomes]

    def layout(self, *, answers: bool) -> Layout:
        """The columns of requests/ or of answers/."""
        schema = self.schema
        columns = [Column(path=path, kind="id") for path in ("request_id", USER, "timestamp_ms")]
        # The reader needs a column of the history; the study does not.
        columns.append(Column(path="history.timestamp_ms", kind="id"))
        named = {feature.column: feature for feature in schema.candidate}
        for key in self.keys:
            if key != USER:
                listed = key in named and named[key].kind == "id_list"
                columns.append(Column(path=f"candidates.{key}", kind="id_list" if listed else "id"))
        if answers:
            columns += [Column(path=f"candidates.{name}", kind="float") for name in self.numbers]
            columns.append(Column(path="candidates.answer", kind="answer", answers=schema.answers))
            columns.append(Column(path="candidates.answered_at_ms", kind="optional_time"))
        for outcome in schema.outcomes:
            kind: Kind = "flag" if outcome.kind == "binary" else "amount"
            columns.append(Column(path=f"candidates.{outcome.name}", kind=kind))
        watched = [name for name in (WATCH, DURATION) if name in self.times]
        columns += [Column(path=f"candidates.{name}", kind="optional_float") for name in (*self.actions, *watched)]
        if KNOWN in self.times:
            columns.append(Column(path=f"candidates.{KNOWN}", kind="id"))
        return Layout(schema=schema, columns=()).with_columns(columns)


def choose(schema: FeatureSchema, requests: pa.Schema, answers: pa.Schema) -> Chosen:
    """What to read, from the Arrow schemas of both datasets.

    Raises UserError if the answers have no column `answer`.
    """
    there = dict(leaf_types(requests))
    both = {
        path.removeprefix("candidates.")
        for path, dtype in leaf_types(answers)
        if path.startswith("candidates.") and there.get(path) == dtype
    }
    numeric = {name for name in both if Column(path=name, kind="optional_float").accepts(there[f"candidates.{name}"])}
    outcomes = {outcome.name for outcome in schema.outcomes}
    ids = [feature.column for feature in schema.candidate if feature.kind in ("id", "id_list")]
    return Chosen(
        schema=schema,
        keys=tuple(dict.fromkeys([schema.item, *ids, USER])),
        numbers=tuple(dict.fromkeys(feature.column for feature in schema.candidate if feature.kind == "float")),
        actions=tuple(name for name in ACTIONS if name in numeric - outcomes),
        times=tuple(name for name in (WATCH, DURATION, KNOWN) if name in numeric),
    )


def opened(directory: files.Location, schema: FeatureSchema) -> tuple[Chosen, RequestDataset, RequestDataset]:
    """(columns, requests, answers) of a data directory.

    Raises:
        UserError: a dataset is missing or has no requests, or its columns do not match the schema.
    """
    where = files.display_name(directory)
    for name in ("requests", "answers"):
        if not files.is_dir(files.join(directory, name)):
            raise UserError(
                f"--data {where}: it has no folder {name}/ (see docs/reference/data-contract.md). Study worth compares "
                "answers with behaviour, so it needs both"
            )
    bare = Layout(schema=schema, columns=(Column(path="timestamp_ms", kind="id"),))
    found = [RequestDataset(files.join(directory, name), bare) for name in ("requests", "answers")]
    chosen = choose(schema, *(dataset.file_schema for dataset in found))
    requests, answers = (
        RequestDataset(files.join(directory, name), chosen.layout(answers=name == "answers"), max_history=1)
        for name in ("requests", "answers")
    )
    requests.check_time_order("study worth")
    return chosen, requests, answers


def behaviour(chosen: Chosen, requests: RequestColumns) -> dict[str, Floats]:
    """The outcomes of N candidates, (N,) by name: 0 or 1, an amount in its unit, the watch time in s, the share watched
    (0 to 1). A null is no action, and no watching."""
    candidates = requests.candidates
    found: dict[str, Floats] = {}
    for outcome in chosen.schema.outcomes:
        found[outcome.name] = candidates.column(outcome.name).astype(np.float64) / outcome.unit
    for name in chosen.actions:
        found[name] = np.clip(np.nan_to_num(candidates.column(name).astype(np.float64)), 0, 1)
    if WATCH in chosen.times:
        watch_N = _non_negative(candidates.column(WATCH))
        found[WATCH_TIME] = watch_N / 1_000
        if DURATION in chosen.times:
            found[WATCHED_SHARE] = np.minimum(watch_N / np.maximum(_non_negative(candidates.column(DURATION)), 1), 1)
    return found


def as_rates(chosen: Chosen, outcomes: dict[str, Floats]) -> dict[str, Array]:
    """The outcomes that are averaged, as numbers from 0 to 1: an amount of x counts as x / (1 + x)."""
    binary = {outcome.name for outcome in chosen.schema.outcomes if outcome.kind == "binary"}
    within = binary | {*chosen.actions, WATCHED_SHARE}
    return {name: outcomes[name] if name in within else outcomes[name] / (1 + outcomes[name]) for name in chosen.rates}


def ids_of(chosen: Chosen, requests: RequestColumns) -> dict[str, Array | Ragged]:
    """By key, the ids of N candidates; that of the user is repeated for each."""
    candidates = requests.candidates
    found: dict[str, Array | Ragged] = {key: candidates.children[key] for key in chosen.keys if key != USER}
    found[USER] = requests.scalars[USER][owners(requests)]
    return found


def known_ms(chosen: Chosen, requests: RequestColumns) -> Array:
    """When the outcomes of N candidates were known: as `easq-rec data counts` has it."""
    candidates, owner_N = requests.candidates, owners(requests)
    if KNOWN in chosen.times:
        return candidates.column(KNOWN)
    request_ms_N = requests.timestamp_ms[owner_N]
    if WATCH not in chosen.times:
        return request_ms_N
    # The end of the last watch is never too early for any candidate of the request.
    together_R = np.bincount(owner_N, _non_negative(candidates.column(WATCH)), minlength=len(requests))
    return request_ms_N + together_R[owner_N].astype(np.int64)


def owners(requests: RequestColumns) -> Array:
    """The request of each of N candidates."""
    return np.repeat(np.arange(len(requests)), requests.candidates.lengths)


def names(keys: Sequence[str], schema: FeatureSchema) -> Iterator[str]:
    """The keys as a table names them."""
    for key in keys:
        yield {schema.item: "item", USER: "user"}.get(key, key.removesuffix("_id"))


def _non_negative(column: Array) -> Floats:
    return np.maximum(np.nan_to_num(column.astype(np.float64)), 0)
