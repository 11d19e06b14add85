"""The kinds of columns: how each is read from Arrow, encoded for the model, and put into a batch.

All code that depends on the kind of a column is in this file. The reader (`decode`, `encode`, `batch`) calls

- `Column.accepts` with the type in the file,
- `read` with the Arrow array: whole columns are checked, without Python per row,
- `encode` with what `read` returned: ids become table rows, numbers are transformed,
- `lookup` with encoded ids, to look them up in a table.

Weighted ids lie in a file as ``list<struct<id, weight>>`` and not as two lists, which could differ in length. A count
is a ``struct<shown, happened, prior>``: impressions, those in which the outcome happened, and the overall rate.

A column with one value per entry is an array, a column of lists is `Ragged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from easq_rec.config.answer_scale import NO_ANSWER, AnswerScale
from easq_rec.config.schema import Feature, Table
from easq_rec.data import encoding
from easq_rec.data.bad_rows import Place, check, no_nulls, nulls
from easq_rec.data.columns import Array, Ragged, Rows

Kind = Literal[
    "id", "id_list", "weighted_id_list", "float", "float_list", "count", "flag", "amount", "optional_float", "answer",
    "optional_time",
]  # fmt: skip

NO_TIME = -1
"""Stands for a null in an optional time."""
A_LIST = "a list (an empty one where there is nothing)"
VALUES = "values"
"""Child of a `Ragged` column that holds the ids,"""
WEIGHTS = "weights"
"""and the one that holds their weights."""
COUNT_FIELDS = ("shown", "happened", "prior")
"""Fields of a count, in the order of the columns that `read` returns."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column that is read."""

    path: str
    """In the data contract: ``user.region``, ``history.video_id``, ``candidates.tags``."""
    kind: Kind
    table: Table | None = None
    """The embedding table that bounds its ids, if it is dense."""
    answers: AnswerScale | None = None
    """The scale of its answers, for kind `answer`."""
    length: int | None = None
    """Numbers in each of its lists, for kind `float_list`."""

    @staticmethod
    def of(path: str, feature: Feature, table: Table | None) -> Column:
        """The column of a feature with that table."""
        bounded = table if table is not None and table.id_space == "dense" else None
        return Column(path=path, kind=feature.kind, table=bounded, length=feature.length)

    @property
    def expected(self) -> str:
        """The Arrow types that it may have, in words."""
        return {
            "id": "an integer",
            "id_list": "a list of integers",
            "weighted_id_list": "a list of structs of an integer id and a number weight",
            "float": "a number or boolean",
            "float_list": "a list of numbers",
            "flag": "a number or boolean",
            "amount": "a number",
            "count": "a struct of the numbers shown, happened and prior, as `easq-rec data counts` writes",
            "optional_float": "a number (null: unknown)",
            "answer": f"an integer (null, {self.answers.expected})" if self.answers is not None else "",
            "optional_time": "an integer (null or milliseconds)",
        }[self.kind]

    def accepts(self, dtype: pa.DataType) -> bool:
        """Whether a column of an Arrow type can be read."""
        match self.kind:
            case "id" | "answer" | "optional_time":
                return pa.types.is_integer(dtype)
            case "id_list":
                return is_list(dtype) and pa.types.is_integer(dtype.value_type)
            case "weighted_id_list":
                return is_weighted_list(dtype)
            case "float" | "flag":
                return _is_number(dtype) or pa.types.is_boolean(dtype)
            case "float_list":
                return is_number_list(dtype)
            case "count":
                return is_count(dtype)
            case "optional_float" | "amount":
                return _is_number(dtype)


def read(array: pa.Array, column: Column, place: Place, owner: Rows | None) -> Array | Ragged:
    """A checked column: int64 (ids, times), int8 (answers), float32, or lists of them. A count is float32, (n, 3).

    Args:
        owner: row of the table that holds each entry; None: entry i is that of row i.

    Raises:
        BadRows: a null where none may be, or a value out of bounds.
    """
    match column.kind:
        case "answer":
            scale = column.answers
            assert scale is not None
            # A valid code fills the nulls for the check, and NO_ANSWER replaces it: in a file, NO_ANSWER is no code.
            values = array.fill_null(scale.first).to_numpy(zero_copy_only=False)
            strange = (values < scale.first) | (values > scale.last)
            check(strange, values, column.path, place, owner, f"null, {scale.expected}")
            return np.where(nulls(array), NO_ANSWER, values.astype(np.int8))
        case "optional_time":
            times = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            return np.where(nulls(array), NO_TIME, times)
        case "optional_float":
            numbers = array.to_numpy(zero_copy_only=False)
            floats = _float32(numbers)
            check(np.isinf(floats), numbers, column.path, place, owner, "a finite number (float32), or null")
            return floats
        case "float":
            return _numbers(array, column.path, place, owner)
        case "flag":
            flags = _numbers(array, column.path, place, owner)
            allowed = "0 or 1 (an outcome of kind amount may be any number of 0 or more)"
            check((flags != 0) & (flags != 1), flags, column.path, place, owner, allowed)
            return flags
        case "amount":
            amounts = _numbers(array, column.path, place, owner)
            check(amounts < 0, amounts, column.path, place, owner, "a number of 0 or more")
            return amounts
        case "float_list":
            return _number_lists(array, column, place, owner)
        case "count":
            return _counts(array, column.path, place, owner)
        case "weighted_id_list":
            return _weighted_ids(array, column, place, owner)
        case "id":
            return _ids(array, column, place, owner)
        case "id_list":
            offsets, inner = _lists(array, column.path, place, owner)
            return Ragged(offsets=offsets, children={VALUES: _ids(array.flatten(), column, place, inner)})


def encode(feature: Feature, table: Table | None, column: Array | Ragged) -> Array | Ragged:
    """What the model looks up or reads of a feature's column.

    Args:
        table: that of the feature.
    """
    match feature.kind:
        case "id":
            return _rows(table, _flat(column))
        case "id_list":
            assert isinstance(column, Ragged)
            return Ragged(offsets=column.offsets, children={VALUES: _rows(table, column.column(VALUES))})
        case "weighted_id_list":
            assert isinstance(column, Ragged)
            weights = column.column(WEIGHTS)
            if feature.pooling == "mean":
                weights = encoding.shares(weights, column.owners, len(column.lengths))
            rows = _rows(table, column.column(VALUES))
            return Ragged(offsets=column.offsets, children={VALUES: rows, WEIGHTS: weights})
        case "float" | "float_list":
            return encoding.number(feature, _flat(column))
        case "count":
            return encoding.count_numbers(feature, _flat(column))


@dataclass(frozen=True, kw_only=True)
class IdLists:
    """Table rows of one feature, for all entries of a batch."""

    ids: Array
    lengths: Rows
    """Ids of each entry."""
    weights: Array
    """Weight of each id in a sum, float32."""

    def without(self, entries: int) -> IdLists:
        """The same with no ids for the leading entries."""
        if not entries:
            return self
        first = int(self.lengths[:entries].sum())
        lengths = np.concatenate([np.zeros(entries, self.lengths.dtype), self.lengths[entries:]])
        return IdLists(ids=self.ids[first:], lengths=lengths, weights=self.weights[first:])


def lookup(feature: Feature, parts: Sequence[Array | Ragged]) -> IdLists:
    """The encoded ids of a feature, from the parts of a batch one after the other."""
    if isinstance(parts[0], Ragged):
        lists = [part for part in parts if isinstance(part, Ragged)]
        ids, lengths = joined([ragged.column(VALUES) for ragged in lists]), joined([r.lengths for r in lists])
        if feature.kind == "weighted_id_list":
            weights = joined([ragged.column(WEIGHTS) for ragged in lists])
        elif feature.pooling == "mean":
            weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        else:
            weights = np.ones(len(ids), np.float32)
        return IdLists(ids=ids, lengths=lengths, weights=weights)
    ids = joined([_flat(part) for part in parts])
    return IdLists(ids=ids, lengths=np.ones(len(ids), np.int64), weights=np.ones(len(ids), np.float32))


def joined(parts: Sequence[Array]) -> Array:
    """The parts one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def is_list(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is a list of any length."""
    return pa.types.is_list(dtype) or pa.types.is_large_list(dtype)


def is_number_list(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is a list of numbers, of any length or of one."""
    return (is_list(dtype) or pa.types.is_fixed_size_list(dtype)) and _is_number(dtype.value_type)


def is_weighted_list(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is a list of structs that have an integer `id` and a number `weight`."""
    if not is_list(dtype) or not pa.types.is_struct(dtype.value_type):
        return False
    fields = {field.name: field.type for field in dtype.value_type}
    return pa.types.is_integer(fields.get("id", pa.null())) and _is_number(fields.get("weight", pa.null()))


def is_count(dtype: pa.DataType) -> bool:
    """Whether an Arrow type is a struct that has the numbers of a count."""
    if not pa.types.is_struct(dtype):
        return False
    fields = {field.name: field.type for field in dtype}
    return all(_is_number(fields.get(name, pa.null())) for name in COUNT_FIELDS)


def offsets(array: pa.Array) -> Rows:
    """Offsets of an Arrow array of lists into what `flatten` returns."""
    found = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return found - found[0] if len(found) else np.zeros(1, dtype=np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Ids


def _lists(array: pa.Array, path: str, place: Place, owner: Rows | None) -> tuple[Rows, Rows]:
    """Offsets of lists, and for each of their items the row that holds it."""
    no_nulls(array, path, place, A_LIST, owner)
    starts = offsets(array)
    rows = np.arange(len(array)) if owner is None else owner
    return starts, np.repeat(rows, np.diff(starts))


def _ids(array: pa.Array, column: Column, place: Place, owner: Rows | None) -> Rows:
    no_nulls(array, column.path, place, "an integer", owner)
    found = array.to_numpy(zero_copy_only=False)
    ids = found.astype(np.int64, copy=False)
    if found.dtype == np.uint64:
        check(ids < 0, found, column.path, place, owner, "an integer below 2**63")
    if column.table is not None:
        rows = column.table.rows
        expected = f"0..{rows - 1} (dense table {column.table.name!r})"
        check((ids < 0) | (ids >= rows), ids, column.path, place, owner, expected)
    return ids


def _weighted_ids(array: pa.Array, column: Column, place: Place, owner: Rows | None) -> Ragged:
    starts, inner = _lists(array, column.path, place, owner)
    items = array.flatten()
    no_nulls(items, column.path, place, "a struct of id and weight", inner)
    ids = _ids(items.field("id"), replace(column, path=f"{column.path}.id"), place, inner)
    path = f"{column.path}.weight"
    weights = _numbers(items.field("weight"), path, place, inner)
    check(weights < 0, weights, path, place, inner, "a weight of 0 or more")
    return Ragged(offsets=starts, children={VALUES: ids, WEIGHTS: weights})


def _rows(table: Table | None, ids: Array) -> Rows:
    """Table rows of ids, in four bytes where they fit; of an admitted table the ids."""
    assert table is not None
    narrow = table.id_space != "admitted" and table.rows <= 2**31
    return encoding.table_rows(ids, table).astype(np.int32 if narrow else np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype)


def _numbers(array: pa.Array, path: str, place: Place, owner: Rows | None) -> npt.NDArray[np.float32]:
    no_nulls(array, path, place, "a number", owner)
    numbers = array.to_numpy(zero_copy_only=False)
    floats = _float32(numbers)
    check(~np.isfinite(floats), numbers, path, place, owner, "a finite number (float32)")
    return floats


def _number_lists(array: pa.Array, column: Column, place: Place, owner: Rows | None) -> npt.NDArray[np.float32]:
    """(entries, length)."""
    assert column.length is not None
    expected = f"a list of {column.length} numbers"
    no_nulls(array, column.path, place, expected, owner)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    found = np.char.add("a list of ", lengths.astype(str))
    check(lengths != column.length, found, column.path, place, owner, expected)
    rows = np.arange(len(array)) if owner is None else owner
    return _numbers(array.flatten(), column.path, place, np.repeat(rows, lengths)).reshape(-1, column.length)


def _counts(array: pa.Array, path: str, place: Place, owner: Rows | None) -> npt.NDArray[np.float32]:
    """(entries, 3): shown, happened, prior."""
    no_nulls(array, path, place, f"a struct of {', '.join(COUNT_FIELDS)}", owner)
    shown, happened, prior = (_numbers(array.field(name), f"{path}.{name}", place, owner) for name in COUNT_FIELDS)
    check(shown < 0, shown, f"{path}.shown", place, owner, "a number of 0 or more")
    wrong = (happened < 0) | (happened > shown)
    check(wrong, happened, f"{path}.happened", place, owner, "a number from 0 to `shown`")
    check((prior < 0) | (prior > 1), prior, f"{path}.prior", place, owner, "a rate from 0 to 1")
    return np.stack([shown, happened, prior], axis=1)


def _float32(numbers: Array) -> npt.NDArray[np.float32]:
    """What float32 cannot hold becomes infinite, for the caller to refuse."""
    # A signalling NaN is an invalid value.
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(np.float32, copy=False)


def _flat(column: Array | Ragged) -> Array:
    assert not isinstance(column, Ragged)
    return column
