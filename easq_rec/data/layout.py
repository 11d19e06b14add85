"""The Parquet columns that a feature schema requires, and the check that a file has them.

A column is named by its path in the data contract: ``user.region``, ``history.video_id``, ``candidates.tags``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

from easq_rec.config.schema import Feature, FeatureSchema
from easq_rec.data.kinds import Column, is_list
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that one reader needs."""

    schema: FeatureSchema
    columns: tuple[Column, ...]
    truth: str | None = None
    """Candidate column with a graded truth, if it is read."""

    @staticmethod
    def of(schema: FeatureSchema, *, outcomes: bool = True, answers: bool = False, truth: str | None = None) -> Layout:
        """The schema's feature columns, with outcomes, answers, or a graded truth, which only evaluation reads."""
        columns = [
            Column(path="request_id", kind="id"),
            Column(path="user_id", kind="id"),
            Column(path="timestamp_ms", kind="id"),
            Column(path="history.timestamp_ms", kind="id"),
            Column(path="history.watch_ratio", kind="float"),
            Column(path=f"candidates.{schema.item}", kind="id"),
        ]
        columns += [_feature(schema, user_path(f), f) for f in schema.user]
        columns += [_feature(schema, f"history.{f.column}", f) for f in schema.history]
        columns += [_feature(schema, f"candidates.{f.column}", f) for f in (*schema.candidate, *schema.satisfaction)]
        if outcomes:
            columns += [
                Column(path=f"candidates.{outcome.name}", kind="flag" if outcome.kind == "binary" else "amount")
                for outcome in schema.outcomes
            ]
        if answers:
            columns += [
                Column(path="candidates.answer", kind="answer", answers=schema.answers),
                Column(path="candidates.answered_at_ms", kind="optional_time"),
            ]
        if truth is not None:
            columns.append(Column(path=f"candidates.{truth}", kind="optional_float"))
        return Layout(schema=schema, columns=(), truth=truth).with_columns(columns)

    def with_columns(self, columns: Iterable[Column]) -> Layout:
        """The layout with further columns, of which it may have some."""
        unique = {column.path: column for column in self.columns}
        for column in columns:
            first = unique.get(column.path)
            unique[column.path] = column if first is None else _both(first, column)
        return replace(self, columns=tuple(unique.values()))

    def check(self, file_schema: pa.Schema, where: str) -> None:
        """Raises UserError that lists every difference between the file and what is read from it."""
        listed = leaf_types(file_schema, whole={column.path for column in self.columns})
        leaves = dict(listed)
        times = Counter(path for path, _ in listed)
        twice = [column.path for column in self.columns if times[column.path] > 1]
        if twice:
            listing = "\n".join(f"  {path}: several columns have this name; a dot may be part of one" for path in twice)
            raise UserError(f"{where} does not match the feature schema:\n{listing}")
        problems = []
        for name in sorted({column.path.split(".")[0] for column in self.columns if "." in column.path}):
            found = file_schema.field(name).type if name in file_schema.names else pa.null()
            if name == "user" and is_list(found):
                problems.append(f"  {name}: is {found}, expected a struct")
            elif name != "user" and pa.types.is_struct(found):
                problems.append(f"  {name}: is {found}, expected a list of structs")
        uncounted: set[str] = set()
        shared = {feature.column for feature in self.schema.candidate}
        own = [feature for feature in self.schema.satisfaction if feature.column not in shared]
        # One missing count of outcomes may be a wrong name. Counts of answers are few, so that one may be all.
        for features, what, least, variant in (
            (self.schema.candidate, "counts", 2, "_without_counts"),
            (own, "counts of answers", 1, "_without_answer_counts"),
        ):
            read = {f"candidates.{feature.column}" for feature in features if feature.kind == "count"}
            counts = [column.path for column in self.columns if column.path in read and column.kind == "count"]
            if len(counts) >= least and not leaves.keys() & set(counts):
                uncounted.update(counts)
                number, more = (f"{len(counts)} ", ", ...") if len(counts) > 1 else ("", "")
                problems.append(
                    f"  has none of the {number}{what} that the schema reads ({counts[0]}{more}): add them with "
                    f"`easq-rec data counts`, or train a recipe that ends in {variant}"
                )
        for column in self.columns:
            if column.path in uncounted:
                continue
            if column.path not in leaves:
                problems.append(f"  {column.path}: missing, expected {column.expected}")
            elif not column.accepts(leaves[column.path]):
                problems.append(f"  {column.path}: is {leaves[column.path]}, expected {column.expected}")
        if problems:
            listing = "\n".join(problems)
            raise UserError(f"{where} does not match the feature schema:\n{listing}\n  its columns: {sorted(leaves)}")


def user_path(feature: Feature) -> str:
    """Path of a user feature: the user's id is a column of the request, all other features are in the user struct."""
    return "user_id" if feature.column == "user_id" else f"user.{feature.column}"


def leaf_types(file_schema: pa.Schema, *, whole: Container[str] = ()) -> list[tuple[str, pa.DataType]]:
    """(path, type) of every column, depth first. Structs and lists of structs are entered, other types are not.

    Args:
        whole: paths that are not entered.
    """
    leaves: list[tuple[str, pa.DataType]] = []

    def walk(prefix: str, dtype: pa.DataType) -> None:
        inner = dtype.value_type if is_list(dtype) and pa.types.is_struct(dtype.value_type) else dtype
        if pa.types.is_struct(inner) and prefix not in whole:
            for field in inner:
                walk(f"{prefix}.{field.name}", field.type)
        else:
            leaves.append((prefix, dtype))

    for field in file_schema:
        walk(field.name, field.type)
    return leaves


def leaf_indices(file_schema: pa.Schema, wanted: Container[str]) -> list[int]:
    """Indices of the Parquet leaves of some columns (leaves lie in the depth-first order of the Arrow schema)."""
    indices: list[int] = []
    index = 0
    for path, dtype in leaf_types(file_schema, whole=wanted):
        width = _width(dtype)
        if path in wanted:
            indices += range(index, index + width)
        index += width
    return indices


def _width(dtype: pa.DataType) -> int:
    """Number of Parquet leaves of an Arrow type: unread columns may be maps or lists of lists."""
    if isinstance(dtype, pa.BaseExtensionType):
        return _width(dtype.storage_type)
    if pa.types.is_map(dtype):
        return _width(dtype.key_type) + _width(dtype.item_type)
    if pa.types.is_struct(dtype):
        return sum(_width(field.type) for field in dtype)
    if pa.types.is_nested(dtype):
        return _width(dtype.value_type)
    return 1


def _both(first: Column, second: Column) -> Column:
    """A column that two features read: the smaller dense table bounds it, and ids are not read as float32."""
    tables = sorted((c.table for c in (first, second) if c.table is not None), key=lambda table: table.rows)
    kept = second if {first.kind, second.kind} == {"id", "float"} and second.kind == "id" else first
    return replace(kept, table=tables[0] if tables else None)


def _feature(schema: FeatureSchema, path: str, feature: Feature) -> Column:
    return Column.of(path, feature, schema.table(feature.table) if feature.table is not None else None)
