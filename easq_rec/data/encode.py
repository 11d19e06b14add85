"""Requests as model inputs: ids as table rows, numbers transformed, times as ages.

Everything that can be computed for a whole row group is computed here, so that making a batch only copies.
"""

from __future__ import annotations

import numpy as np

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.columns import Array, Ragged, RequestColumns, Rows
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
    scalars = {name: requests.scalars[name] for name in ("request_id", "user_id", "timestamp_ms")}
    lists = {}
    for feature in schema.user:
        if feature.kind == "id_list":
            lists[feature_key(feature)] = _row_lists(schema, feature, requests.lists[user_path(feature)])
        else:
            scalars[feature_key(feature)] = _rows(schema, feature, requests.scalars[user_path(feature)])
    age = np.repeat(requests.timestamp_ms, history.lengths) - history.column("timestamp_ms")
    entries = {feature_key(f): _rows(schema, f, history.column(f.column)) for f in schema.history}
    entries |= {AGE: (age / 1_000).astype(np.float32), RATIO: history.column("watch_ratio")}
    kept = {schema.item, "answer", "answered_at_ms", layout.truth}
    children = {name: child for name, child in candidates.children.items() if name in kept}
    for feature in schema.candidate:
        if feature.kind == "id_list":
            children[feature_key(feature)] = _row_lists(schema, feature, candidates.lists(feature.column))
        elif feature.kind == "id":
            children[feature_key(feature)] = _rows(schema, feature, candidates.column(feature.column))
        else:
            children[feature_key(feature)] = _transformed(feature, candidates.column(feature.column))
    for outcome in schema.outcomes:
        if outcome.name in candidates.children:
            children[outcome_key(outcome.name)] = candidates.column(outcome.name)
    return EncodedRequests(
        scalars=scalars,
        lists=lists,
        history=Ragged(offsets=history.offsets, children=entries),
        candidates=Ragged(offsets=candidates.offsets, children=children),
    )


def _row_lists(schema: FeatureSchema, feature: Feature, ids: Ragged) -> Ragged:
    return Ragged(offsets=ids.offsets, children={"values": _rows(schema, feature, ids.column("values"))})


def _rows(schema: FeatureSchema, feature: Feature, ids: Array) -> Rows:
    """Table rows of ids, as int32 if they fit. Python's modulo also maps negative ids to rows."""
    assert feature.table is not None
    table = schema.table(feature.table)
    if table.id_space == "hashed":
        # Like np.remainder, but faster: numpy vectorises the division by a constant, but not the remainder.
        ids = ids - np.floor_divide(ids, table.rows) * table.rows
    return ids.astype(np.int32 if table.rows <= 2**31 else np.int64)


def _transformed(feature: Feature, values: Array) -> Array:
    floats = values.astype(np.float32, copy=False)
    return np.log1p(np.maximum(floats, 0)) if feature.transform == "log1p" else floats
