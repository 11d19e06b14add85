"""Statistics of one column of the data contract."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from easq_rec.data.kinds import is_list, is_number_list
from easq_rec.tools.inspect.lengths import Lengths

Kind = Literal["integer", "list", "float", "float_list", "boolean", "other"]
"""`list`: of integers. Columns of kind `other` are not read."""
LISTS = ("list", "float_list")

QUANTITY = re.compile(
    r"(?i)_(ms|us|s|secs?|seconds|minutes|hours|days|count|cnt|num|bytes|length|size|score|rate|ratio|price)$"
    r"|^(num|n|count|duration|length|price)(_|$)"
)
"""Names of integers that are quantities rather than ids."""
UNCOUNTED = ("request_id", "timestamp_ms", "answered_at_ms", "known_ms")
"""Last parts of paths of integers that are neither features nor table ids, so distinct values are not counted."""


def kind_of(dtype: pa.DataType) -> Kind:
    """The kind of an Arrow type."""
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype):
        return "integer"
    if pa.types.is_floating(dtype):
        return "float"
    if is_list(dtype) and pa.types.is_integer(dtype.value_type):
        return "list"
    return "float_list" if is_number_list(dtype) and pa.types.is_floating(dtype.value_type) else "other"


def is_counted(path: str, kind: Kind) -> bool:
    """Whether distinct values are counted."""
    return kind in ("integer", "list") and path.rpartition(".")[2] not in UNCOUNTED


@dataclass(frozen=True, kw_only=True)
class ColumnStats:
    """Figures of a column; of a list, those of the numbers in it. Columns of kind `other` have only types."""

    path: str
    kind: Kind
    types: list[str]
    """Arrow types in the files."""
    values: int = 0
    """Values that are not null."""
    nulls: int = 0
    """Null values; of lists, null lists and nulls in lists."""
    minimum: float | int | None = None
    """Of the finite values, as are maximum, mean and negative; None: there are none."""
    maximum: float | int | None = None
    mean: float | None = None
    negative: int = 0
    nan: int = 0
    infinite: int = 0
    distinct: int | None = None
    """Distinct integers; None: they are not counted."""
    lengths: Lengths | None = None
    """Of lists."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def group(self) -> str:
        """user, history or candidates; empty for columns of the request itself."""
        return self.path.rpartition(".")[0]

    @property
    def quantity(self) -> bool:
        """Whether its name says that an integer is a quantity rather than an id."""
        return self.kind == "integer" and QUANTITY.search(self.name) is not None

    @property
    def binary(self) -> bool:
        """Booleans, or integers that are all 0 or 1 (at least one of them)."""
        bounded = self.minimum is not None and self.minimum >= 0 and self.maximum in (0, 1)
        return self.kind == "boolean" or (self.kind == "integer" and bounded)
