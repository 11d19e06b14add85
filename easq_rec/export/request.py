"""Requests of callers: JSON or Arrow to the inputs of a program, checked column by column.

Compiled code checks nothing: a wrong type, length or id gives a score, or ends the process. So everything that it
relies on is checked here, before a request joins others.

Both forms have one list for each input of the program, by its name: `{"timestamp_ms": [...], "lengths:history": [...],
"history.video_id": [...], ...}`. In Arrow it is an IPC stream or file with one row, whose columns are lists. Slots are
not sent.

Legend: R requests, H history entries, N candidates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from easq_rec.data.kinds import is_list
from easq_rec.export.inputs import (
    CANDIDATE_SLOTS,
    CANDIDATES,
    HISTORY,
    HISTORY_SLOTS,
    LEAST_SLOTS,
    REQUESTS,
    Input,
    lengths,
    weights,
)

SHOWN = 80
"""Characters of a wrong value that an error shows."""


class BadRequestError(ValueError):
    """A request that cannot be scored. The message names the column, what it holds, and what is expected."""

    def __init__(self, column: str, found: object, expected: str) -> None:
        text = str(found)
        self.column = column
        self.found = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        self.expected = expected
        super().__init__(f"{column}: is {self.found}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class CallLimits:
    """How much a caller may send at once."""

    requests: int = 256
    candidates: int = 5_000
    history: int = 100_000
    """Entries of all histories together."""
    items: int = 100_000
    """Items of the lists of a column together."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Checked columns of a call."""

    columns: Mapping[str, NDArray[Any]]
    """By the name of an input, without slots."""
    requests: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a program takes.

    Args:
        bounds: ids of these columns are 0 or more, and less than the number.
        max_history: entries of a history that count.
    """

    inputs: tuple[Input, ...]
    bounds: Mapping[str, int]
    max_history: int
    limits: CallLimits = CallLimits()

    def of_json(self, body: bytes) -> Decoded:
        """Raises BadRequestError."""
        try:
            values = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadRequestError("body", f"no JSON ({error})", "an object with a list for each column") from error
        if not isinstance(values, dict):
            raise BadRequestError("body", _kind(values), "an object with a list for each column")
        self._check_names(values)
        return self._checked({one.name: _array(one, values[one.name]) for one in self._sent})

    def of_arrow(self, body: bytes) -> Decoded:
        """Raises BadRequestError."""
        expected = "an Arrow IPC stream or file with one row, and a list for each column"
        try:
            opened = pa.ipc.open_file(body) if body.startswith(b"ARROW1") else pa.ipc.open_stream(body)
            table = opened.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadRequestError("body", f"no Arrow ({error})", expected) from error
        if table.num_rows != 1:
            raise BadRequestError("body", f"Arrow with {table.num_rows} rows", expected)
        if len(set(table.column_names)) != len(table.column_names):
            raise BadRequestError("body", "Arrow with several columns of one name", expected)
        self._check_names(dict.fromkeys(table.column_names))
        return self._checked({one.name: _of_arrow(one, table.column(one.name)) for one in self._sent})

    def tensors(self, calls: Sequence[Decoded]) -> tuple[Tensor, ...]:
        """The inputs of a program for the requests of some calls, one after the other."""
        found = []
        for one in self.inputs:
            if one.name in (HISTORY_SLOTS, CANDIDATE_SLOTS):
                group = HISTORY if one.name == HISTORY_SLOTS else CANDIDATES
                longest = max(int(call.columns[lengths(group)].max()) for call in calls)
                longest = min(longest, self.max_history) if group == HISTORY else longest
                found.append(torch.zeros(max(longest, LEAST_SLOTS), dtype=torch.int64))
                continue
            parts = [call.columns[one.name] for call in calls]
            found.append(torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)))
        return tuple(found)

    @property
    def _sent(self) -> list[Input]:
        return [one for one in self.inputs if one.name not in (HISTORY_SLOTS, CANDIDATE_SLOTS)]

    def _check_names(self, values: Mapping[str, object]) -> None:
        names = {one.name for one in self._sent}
        if missing := sorted(names - values.keys()):
            raise BadRequestError(missing[0], "missing", f"a list; all columns are {', '.join(sorted(names))}")
        if unknown := sorted(values.keys() - names):
            raise BadRequestError(unknown[0], "unknown", f"one of {', '.join(sorted(names))}")

    def _checked(self, columns: dict[str, NDArray[Any]]) -> Decoded:
        """Columns whose types are right, checked for lengths and values."""
        sizes = {REQUESTS: len(columns["timestamp_ms"])}
        _require(1 <= sizes[REQUESTS] <= self.limits.requests, "timestamp_ms", sizes[REQUESTS], self._upto("requests"))
        # Lengths say how long other columns are, so they are checked first; requests before their lists.
        for axis in dict.fromkeys(one.axis for one in self._sent if one.axis != REQUESTS):
            owner = next(one for one in self._sent if one.name == lengths(axis))
            length = columns[owner.name]
            if len(length) != sizes[owner.axis]:
                expected = f"{sizes[owner.axis]}, one for each of {owner.axis}"
                raise BadRequestError(owner.name, f"{len(length)} numbers", expected)
            bad = np.flatnonzero((length < 0) | (length > 2**31))
            if len(bad):
                raise BadRequestError(owner.name, f"{length[bad[0]]} at {bad[0]}", "numbers of 0 or more")
            sizes[axis] = int(length.sum())
            kind = axis if axis in (HISTORY, CANDIDATES) else "items"
            least = 1 if axis == CANDIDATES else 0
            _require(least <= sizes[axis] <= getattr(self.limits, kind), axis, sizes[axis], self._upto(kind))
        for one in self._sent:
            column = columns[one.name]
            if len(column) != sizes[one.axis]:
                what = f"{sizes[one.axis]} entries, as many as its lengths say"
                raise BadRequestError(one.name, f"{len(column)} entries", what)
            self._check_values(one, column)
        return Decoded(columns=columns, requests=sizes[REQUESTS], candidates=sizes[CANDIDATES])

    def _check_values(self, one: Input, column: NDArray[Any]) -> None:
        if one.dtype == "int64":
            bound = self.bounds.get(one.name)
            if bound is not None:
                _first_bad((column < 0) | (column >= bound), one, column, f"ids from 0 to {bound - 1}")
            return
        _first_bad(~np.isfinite(column), one, column, "finite numbers (float32)")
        if one.name.startswith(weights("")):
            _first_bad(column < 0, one, column, "weights of 0 or more")
        if one.count:
            shown, happened, prior = column.T
            _first_bad(shown < 0, one, column, "shown of 0 or more")
            _first_bad((happened < 0) | (happened > shown), one, column, "happened from 0 to shown")
            _first_bad((prior < 0) | (prior > 1), one, column, "a prior from 0 to 1")

    def _upto(self, what: str) -> str:
        least = "1 to" if what in ("requests", "candidates") else "at most"
        return f"{least} {getattr(self.limits, what)}"


def _array(one: Input, values: object) -> NDArray[Any]:
    """A list of JSON as an array of the input's type and width."""
    what = _expected(one)
    if not isinstance(values, list):
        raise BadRequestError(one.name, _kind(values), what)
    shape = (len(values),) if one.width is None else (len(values), one.width)
    flat = values
    if one.width is not None:
        wrong = next((value for value in values if not isinstance(value, list) or len(value) != one.width), None)
        if wrong is not None:
            raise BadRequestError(one.name, f"a list with {wrong!r}", what)
        flat = [number for value in values for number in value]
    # numpy would take a truth value for a number, and a text that spells one.
    if set(map(type, flat)) - ({int} if one.dtype == "int64" else {int, float}):
        wrong = next(value for value in flat if not _fits(value, one))
        raise BadRequestError(one.name, f"a list with {wrong!r}", what)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, one.dtype).reshape(shape)
    except OverflowError as error:
        wrong = next((value for value in flat if not _fits(value, one)), flat[0])
        raise BadRequestError(one.name, f"a list with {wrong!r}", what) from error


def _of_arrow(one: Input, column: pa.ChunkedArray) -> NDArray[Any]:
    """A list column with one row as an array of the input's type and width."""
    what, dtype = _expected(one), column.type
    depth = 1 if one.width is None else 2
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    for _ in range(depth):
        if not (is_list(array.type) or pa.types.is_fixed_size_list(array.type)):
            raise BadRequestError(one.name, f"of type {dtype}", what)
        if array.null_count:
            raise BadRequestError(one.name, "null", what)
        entries = len(array)
        lists, array = array, array.flatten()
    if one.width is not None:
        sizes = set(pc.list_value_length(lists).to_pylist())
        if sizes - {one.width}:
            raise BadRequestError(one.name, f"lists of {sorted(sizes)} numbers", what)
    good = pa.types.is_integer(array.type) or (pa.types.is_floating(array.type) and one.dtype == "float32")
    if not good:
        raise BadRequestError(one.name, f"of type {dtype}", what)
    if array.null_count:
        raise BadRequestError(one.name, "a list with null", what)
    found = array.to_numpy(zero_copy_only=False)
    if found.dtype == np.uint64 and len(found) and found.max() >= 2**63:
        raise BadRequestError(one.name, f"a list with {found.max()}", what)
    with np.errstate(over="ignore"):
        found = found.astype(one.dtype)
    return found if one.width is None else found.reshape(entries, one.width)


def _expected(one: Input) -> str:
    kind = "integers of 64 bits" if one.dtype == "int64" else "numbers"
    return f"a list of {kind}" if one.width is None else f"a list of lists of {one.width} {kind}"


def _fits(value: object, one: Input) -> bool:
    if isinstance(value, bool):
        return False
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    return whole or (isinstance(value, float) and one.dtype == "float32")


def _first_bad(bad: NDArray[Any], one: Input, column: NDArray[Any], expected: str) -> None:
    if bad.any():
        place = int(np.flatnonzero(bad.reshape(len(column), -1).any(1))[0])
        raise BadRequestError(one.name, f"{column[place].tolist()} at {place}", expected)


def _require(condition: bool, column: str, found: int, expected: str) -> None:
    if not condition:
        raise BadRequestError(column, f"{found} entries", expected)


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(
        type(value), f"{value!r}"
    )


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")
