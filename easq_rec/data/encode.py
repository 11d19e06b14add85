"""Requests as model inputs: ids as table rows, numbers transformed, times as ages.

Whole row groups are encoded at once, so that a batch is only copied together.
"""

from __future__ import annotations

import numpy as np

from easq_rec.config.schema import Feature
from easq_rec.data import encoding, kinds
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.layout import Layout, user_path

AGE = "age"
RATIO = "watch_ratio"


class EncodedRequests(RequestColumns):
    """Requests with columns `feature.NAME` for features and `outcome.NAME` for outcomes.

    The history has `age` (seconds from the entry to the request) and `watch_ratio`. The scalars request_id, user_id and
    timestamp_ms, and the candidates' item ids, answers and graded truth keep their names and values.
    """


def feature_key(feature: Feature) -> str:
    """Name of a feature's encoded column."""
    return f"feature.{feature.name}"


def outcome_key(name: str) -> str:
    """Name of an outcome's encoded column."""
    return f"outcome.{name}"


def encode(layout: Layout, requests: RequestColumns) -> EncodedRequests:
    """Encodes the columns of a layout."""
    schema, history, candidates = layout.schema, requests.history, requests.candidates

    def encoded(feature: Feature, column: Array | Ragged) -> Array | Ragged:
        return kinds.encode(feature, schema.table(feature.table) if feature.table is not None else None, column)

    scalars = {name: requests.scalars[name] for name in ("request_id", "user_id", "timestamp_ms")}
    lists = {}
    for feature in schema.user:
        column = encoded(feature, requests.column(user_path(feature)))
        if isinstance(column, Ragged):
            lists[feature_key(feature)] = column
        else:
            scalars[feature_key(feature)] = column
    age = encoding.age_seconds(np.repeat(requests.timestamp_ms, history.lengths), history.column("timestamp_ms"))
    entries = {feature_key(f): encoded(f, history.children[f.column]) for f in schema.history}
    entries |= {AGE: age, RATIO: history.column("watch_ratio")}
    kept = {schema.item, "answer", "answered_at_ms", layout.truth}
    children = {name: child for name, child in candidates.children.items() if name in kept}
    for feature in (*schema.candidate, *schema.satisfaction):
        children[feature_key(feature)] = encoded(feature, candidates.children[feature.column])
    for outcome in schema.outcomes:
        if outcome.name in candidates.children:
            values = candidates.column(outcome.name)
            children[outcome_key(outcome.name)] = values if outcome.unit == 1.0 else values / np.float32(outcome.unit)
    return EncodedRequests(
        scalars=scalars,
        lists=lists,
        history=Ragged(offsets=history.offsets, children=entries),
        candidates=Ragged(offsets=candidates.offsets, children=children),
    )
