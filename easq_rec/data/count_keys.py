"""The keys of counts: which columns have their ids, and the ids as the counts use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa

from easq_rec.config.schema import FeatureSchema, NumberRange
from easq_rec.data.columns import Array, Ragged
from easq_rec.data.kinds import Column, is_list
from easq_rec.data.layout import leaf_types
from easq_rec.errors import UserError

CANDIDATES = "candidates"


def key_columns(schema: FeatureSchema, file_schema: pa.Schema) -> list[Column]:
    """The columns that the keys of a schema's counts need.

    Args:
        file_schema: of one file; keys may be integers or lists of integers there.

    Raises:
        UserError: a count has two keys that are lists.
    """
    types, ranges = dict(leaf_types(file_schema)), _ranges(schema)
    columns: dict[str, Column] = {}
    lists = set()
    for key in _keys(schema):
        path = key_path(ranges[key].column if key in ranges else key)
        if key in ranges:
            # A column that is also an id stays one, because float32 does not hold all ids.
            columns.setdefault(path, Column(path=path, kind="float"))
        elif is_list(types.get(path, pa.null())):
            lists.add(key)
            columns[path] = Column(path=path, kind="id_list")
        else:
            columns[path] = Column(path=path, kind="id")
    for count in schema.counts:
        several = lists.intersection(count.keys)
        if len(several) > 1:
            raise UserError(f"count {count.name}: keys {sorted(several)} are lists: one key of a count may be a list")
    return list(columns.values())


def key_path(key: str) -> str:
    """Path of the column of a key."""
    return key if key == "user_id" or key.startswith("user.") else f"{CANDIDATES}.{key}"


def key_ids(schema: FeatureSchema, value: Callable[[str], Array | Ragged]) -> dict[str, Array | Ragged]:
    """By key, the ids of N candidates: an array (N,), or N lists. The id of a number is that of its range, from 0.

    Args:
        value: returns a column of the candidates by its path; one of the requests is repeated for their candidates.
    """
    ranges = _ranges(schema)
    return {
        key: _range_of(ranges[key], value(key_path(ranges[key].column))) if key in ranges else value(key_path(key))
        for key in _keys(schema)
    }


def _range_of(numbers: NumberRange, column: Array | Ragged) -> Array:
    assert not isinstance(column, Ragged)
    # Always float32, however the column is read, so that the pass over a log and serving agree.
    edges = np.array(numbers.edges, np.float32)
    return np.searchsorted(edges, column.astype(np.float32), side="right").astype(np.int64)


def _keys(schema: FeatureSchema) -> Iterable[str]:
    return dict.fromkeys(key for count in schema.counts for key in count.keys)


def _ranges(schema: FeatureSchema) -> Mapping[str, NumberRange]:
    return {one.name: one for one in schema.count_ranges}
