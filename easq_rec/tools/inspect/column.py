"""Statistics of one column of the data contract, row group by row group."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from easq_rec.data.columns import Array
from easq_rec.data.layout import Column as Wanted
from easq_rec.tools.inspect.sketch import Distinct, Lengths

Kind = Literal["integer", "list", "float", "boolean", "other"]

QUANTITY = re.compile(
    r"(?i)_(ms|us|s|secs?|seconds|minutes|hours|days|count|cnt|num|bytes|length|size|score|rate|ratio|price)$"
    r"|^(num|n|count|duration|length|price)(_|$)"
)
"""Names of integers that say how much rather than which."""
UNCOUNTED = ("request_id", "timestamp_ms", "answered_at_ms")
"""Last parts of paths whose distinct values say nothing: no table could have their rows."""


def kind_of(dtype: pa.DataType) -> Kind:
    """What is made of an Arrow type; `other` is not read."""
    if pa.types.is_boolean(dtype):
        return "boolean"
    if pa.types.is_integer(dtype):
        return "integer"
    if pa.types.is_floating(dtype):
        return "float"
    return "list" if Wanted(path="", kind="id_list").accepts(dtype) else "other"


@dataclass(kw_only=True)
class ColumnStats:
    """Of integers, the integers in lists, floats, or booleans; other columns are not read, and have types alone."""

    path: str
    kind: Kind
    types: set[str] = field(default_factory=set)
    """Arrow types in the files."""
    values: int = 0
    """Values that are not null; of lists, what lies in them."""
    nulls: int = 0
    """Null values; of lists, null lists and nulls in lists."""
    minimum: float | int | None = None
    maximum: float | int | None = None
    """Of the finite values; None where there is none."""
    total: float = 0.0
    """Sum of the finite values."""
    negative: int = 0
    nan: int = 0
    infinite: int = 0
    distinct: Distinct = field(default_factory=Distinct)
    """Of integers; empty for UNCOUNTED columns."""
    lengths: Lengths = field(default_factory=Lengths)
    """Of lists."""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def group(self) -> str:
        """user, history or candidates; empty for columns of the request itself."""
        return self.path.rpartition(".")[0]

    @property
    def counted(self) -> bool:
        return self.kind in ("integer", "list") and self.name not in UNCOUNTED

    @property
    def quantity(self) -> bool:
        """Whether its name makes an integer one that says how much rather than which."""
        return self.kind == "integer" and QUANTITY.search(self.name) is not None

    @property
    def mean(self) -> float | None:
        finite = self.values - self.nan - self.infinite
        return self.total / finite if finite else None

    @property
    def binary(self) -> bool:
        """Booleans, or integers that are all 0 or 1 (at least one of them)."""
        bounded = self.minimum is not None and self.minimum >= 0 and self.maximum in (0, 1)
        return self.kind == "boolean" or (self.kind == "integer" and bounded)

    def add(self, array: pa.Array) -> None:
        """Takes in the column of a row group."""
        assert self.kind != "other", f"{self.path} is not read"
        self.types.add(str(array.type))
        if self.kind == "list":
            self.nulls += array.null_count
            self.lengths.add(np.diff(array.drop_null().offsets.to_numpy()) if len(array) else np.zeros(0, np.int64))
            array = array.flatten()
        nulls = array.null_count
        self.nulls += nulls
        values = (array.drop_null() if nulls else array).to_numpy(zero_copy_only=False)
        self.values += len(values)
        if len(values):
            if self.kind == "float":
                self._add_floats(values)
            else:
                self._add_integers(values)

    def _add_integers(self, values: Array) -> None:
        if values.dtype == np.bool_:
            values = values.view(np.int8)
        smallest, largest = int(values.min()), int(values.max())
        self._bound(smallest, largest)
        self.total += float(values.sum(dtype=np.float64))
        if smallest < 0:
            self.negative += int(np.count_nonzero(values < 0))
        if self.counted:
            self.distinct.add(values.astype(np.int64, copy=False), smallest, largest)

    def _add_floats(self, values: Array) -> None:
        # Infinities of both signs make a NaN, and numpy warns of it.
        with np.errstate(invalid="ignore"):
            total = float(values.sum(dtype=np.float64))
        if not math.isfinite(total):
            finite = np.isfinite(values)
            nan = int(np.count_nonzero(np.isnan(values)))
            self.nan += nan
            self.infinite += int(len(values) - np.count_nonzero(finite)) - nan
            values = values[finite]
            if not len(values):
                return
            total = float(values.sum(dtype=np.float64))
        smallest = float(values.min())
        self._bound(smallest, float(values.max()))
        self.total += total
        if smallest < 0:
            self.negative += int(np.count_nonzero(values < 0))

    def _bound(self, smallest: float, largest: float) -> None:
        self.minimum = smallest if self.minimum is None else min(self.minimum, smallest)
        self.maximum = largest if self.maximum is None else max(self.maximum, largest)

    def summary(self) -> dict[str, Any]:
        """As plain values, for report.json."""
        known: dict[str, Any] = {"kind": self.kind, "types": sorted(self.types)}
        if self.kind == "other":
            return known
        known |= {"values": self.values, "nulls": self.nulls}
        known |= {"min": self.minimum, "max": self.maximum, "mean": self.mean, "negative": self.negative}
        if self.kind == "float":
            known |= {"nan": self.nan, "infinite": self.infinite}
        if self.counted:
            known |= {"distinct": self.distinct.count(), "distinct_exact": self.distinct.exact}
        if self.kind == "list":
            known["lengths"] = self.lengths.summary()
        return known
