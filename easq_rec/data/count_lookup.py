"""Adds published counts to requests that lack them, when they are read: what serving does."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from easq_rec.config.counts import without_counts
from easq_rec.config.schema import Count, FeatureSchema, NumberRange
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.count_keys import CANDIDATES, key_columns, key_ids
from easq_rec.data.counts import MINUTE_MS, by_bucket, take
from easq_rec.data.kinds import COUNT_FIELDS
from easq_rec.data.layout import Layout
from easq_rec.data.published_counts import PublishedCounts
from easq_rec.errors import UserError


def missing_counts(schema: FeatureSchema, file_schema: pa.Schema) -> bool:
    """Whether a schema has counts, and a file has none of their columns. If it has some, reading it names the rest."""
    field = file_schema.field(CANDIDATES).type if CANDIDATES in file_schema.names else pa.null()
    fields = field.value_type if pa.types.is_list(field) or pa.types.is_large_list(field) else pa.null()
    present = {one.name for one in fields} if pa.types.is_struct(fields) else set()
    return bool(schema.count_features) and not present.intersection(f.column for f in schema.count_features)


class Declared(Protocol):
    """What a table says of its counts."""

    @property
    def counts(self) -> tuple[Count, ...]: ...

    @property
    def ranges(self) -> tuple[NumberRange, ...]: ...

    @property
    def bucket_minutes(self) -> int: ...


def check_declarations(counts: Declared, schema: FeatureSchema, where: str) -> None:
    """Holds a table of counts equal to a schema, which says what the model was trained on.

    Raises:
        UserError: a count that the schema reads is declared differently there, or not at all. Names every difference.
    """
    wanted = {count.name: count for count in schema.counts}
    there = {count.name: count for count in counts.counts}
    ranges, other = ({one.name: one for one in group} for group in (schema.count_ranges, counts.ranges))
    problems = []
    if counts.bucket_minutes != schema.count_bucket_minutes:
        problems.append(
            f"count_bucket_minutes is {counts.bucket_minutes} there, {schema.count_bucket_minutes} in the schema"
        )
    for name in dict.fromkeys(feature.column for feature in schema.count_features):
        if name not in wanted:
            problems.append(f"{name}: the schema reads it, but does not declare it in [[counts]]")
        elif name not in there:
            problems.append(f"{name}: not in the table")
        elif there[name] != wanted[name]:
            problems.append(f"{name}: {there[name]} there, {wanted[name]} in the schema")
        else:
            keys = [key for key in wanted[name].keys if ranges.get(key) != other.get(key)]
            problems += [
                f"{name}: key {key} is {other.get(key)} there, {ranges.get(key)} in the schema" for key in keys
            ]
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(
            f"{where}: these counts are not those of the schema:\n{listing}\n"
            "  write them with `easq-rec data counts` and the same schema or recipe"
        )


class CountLookup:
    """Looks up the candidates of requests in published counts.

    Raises:
        UserError: the counts are not those of the schema.
    """

    def __init__(self, counts: PublishedCounts, schema: FeatureSchema, where: str) -> None:
        check_declarations(counts, schema, where)
        self._counts, self._schema, self._where = counts, schema, where

    def layout(self, file_schema: pa.Schema) -> Layout:
        """What to read of requests without counts and outcomes: the other features, and the keys of the counts."""
        others = Layout.of(without_counts(self._schema), outcomes=False)
        # The schema with the counts encodes what `complete` returns.
        return replace(others.with_columns(key_columns(self._schema, file_schema)), schema=self._schema)

    def complete(self, requests: RequestColumns) -> RequestColumns:
        """The requests with the columns of the counts, each as of the time of its request.

        Raises:
            UserError: a request is from before the counts.
        """
        candidates = requests.candidates
        owner_N = candidates.owners

        def value(path: str) -> Array | Ragged:
            group, _, name = path.rpartition(".")
            if group == CANDIDATES:
                return candidates.children[name]
            found = requests.column(path)
            return found.take(owner_N) if isinstance(found, Ragged) else found[owner_N]

        ids = key_ids(self._schema, value)
        wanted = {feature.column for feature in self._schema.count_features}
        columns = {name: np.zeros((len(owner_N), len(COUNT_FIELDS)), np.float32) for name in wanted}
        width_ms = self._counts.bucket_minutes * MINUTE_MS
        for start_ms, rows in by_bucket(requests.timestamp_ms[owner_N], width_ms):
            try:
                found = self._counts.lookup(take(ids, rows), len(rows), start_ms)
            except UserError as error:
                raise UserError(f"{self._where}: {error}: give requests from after it, or an older table") from error
            for name, column in columns.items():
                column[rows] = found[name].column()
        children = {**candidates.children, **columns}
        return replace(requests, candidates=Ragged(offsets=candidates.offsets, children=children))
