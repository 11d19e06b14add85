"""Reads a good body in Arrow with little work for each column.

What depends on the schema alone is worked out once: which columns there are, their types, and which of them have the
same type. The columns of a type are joined and become numpy together, since a call has few values and many columns. A
body that is not plain in every way is left to `columns_of_arrow`, which reads it slowly and says what is wrong.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.export.bad_request import BadRequestError, check_names
from easq_rec.export.inputs import Input

MOST_PLANS = 64
"""Plans that are kept. Callers send few different schemas."""
LONGEST_SCHEMA = 2**16
"""Bytes of a schema that has a plan at most; one has about 140 for each column."""
MARK = b"\xff\xff\xff\xff"
"""What every message of a stream begins with; the length of its header follows, in 4 bytes."""
END = MARK + bytes(4)


@dataclass(frozen=True, kw_only=True)
class _SameType:
    """Columns of one Arrow type that become one type of numpy."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    """In the schema."""
    dtype: str
    width: int | None


@dataclass(frozen=True, kw_only=True)
class _ArrowPlan:
    """How bodies of one schema are read."""

    schema: pa.Schema
    groups: tuple[_SameType, ...]


class QuickArrow:
    """Reads bodies with the columns of some inputs."""

    def __init__(self, inputs: tuple[Input, ...]) -> None:
        self._inputs = inputs
        self._plans: dict[bytes, _ArrowPlan | None] = {}
        """By the bytes of the schema. None: bodies with it are read slowly."""

    def columns(self, body: bytes) -> dict[str, NDArray[Any]] | None:
        """What `columns_of_arrow` gives, or None."""
        try:
            begin = _end_of_header(body, 0)
            if begin > LONGEST_SCHEMA:
                return None
            plan = self._plan(body[:begin])
            return None if plan is None else _columns(body, begin, plan)
        except (pa.ArrowException, EOFError, OSError, ValueError):
            return None

    def _plan(self, head: bytes) -> _ArrowPlan | None:
        try:
            return self._plans[head]
        except KeyError:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            plan = self._plans[head] = _plan(pa.ipc.read_schema(pa.py_buffer(head)), self._inputs)
            return plan


def _end_of_header(body: bytes, begin: int) -> int:
    """Where the header of a message ends. Raises ValueError if none begins there."""
    if body[begin : begin + 4] != MARK:
        raise ValueError("no message")
    return begin + 8 + int.from_bytes(body[begin + 4 : begin + 8], "little")


def _plan(schema: pa.Schema, inputs: tuple[Input, ...]) -> _ArrowPlan | None:
    try:
        check_names(schema.names, inputs)
    except BadRequestError:
        return None
    # Not equal if numbers have the other order of bytes.
    if not schema.equals(pa.schema(list(schema))):
        return None
    groups: defaultdict[tuple[str, str, int | None], list[Input]] = defaultdict(list)
    for one in inputs:
        dtype = schema.field(one.name).type
        if not pa.types.is_list(dtype) or not _fits(dtype.value_type, one):
            return None
        groups[str(dtype), one.dtype, one.width].append(one)
    same = []
    for (_, kind, width), members in groups.items():
        names = tuple(one.name for one in members)
        places = tuple(map(schema.get_field_index, names))
        same.append(_SameType(names=names, places=places, dtype=kind, width=width))
    return _ArrowPlan(schema=schema, groups=tuple(same))


def _fits(dtype: pa.DataType, one: Input) -> bool:
    """Whether entries of a type are those of an input. Lists that are not as long are found in the values."""
    if one.width is not None:
        if pa.types.is_fixed_size_list(dtype) and dtype.list_size != one.width:
            return False
        if not (pa.types.is_fixed_size_list(dtype) or pa.types.is_list(dtype)):
            return False
        dtype = dtype.value_type
    return pa.types.is_integer(dtype) or (pa.types.is_floating(dtype) and one.dtype == "float32")


def _columns(body: bytes, begin: int, plan: _ArrowPlan) -> dict[str, NDArray[Any]] | None:
    message = pa.ipc.read_message(pa.py_buffer(body)[begin:])
    rest = body[_end_of_header(body, begin) + message.body.size :]
    if rest not in (b"", END):
        return None
    batch = pa.ipc.read_record_batch(message, plan.schema)
    if batch.num_rows != 1:
        return None
    batch.validate(full=True)
    arrays = batch.columns
    columns: dict[str, NDArray[Any]] = {}
    with np.errstate(over="ignore"):
        for group in plan.groups:
            joined = pa.concat_arrays([arrays[place] for place in group.places])
            values = _values(joined, group)
            if values is None:
                return None
            ends = joined.offsets.to_numpy().tolist()
            for place, name in enumerate(group.names):
                columns[name] = values[ends[place] : ends[place + 1]]
    return columns


def _values(lists: pa.Array, group: _SameType) -> NDArray[Any] | None:
    """The entries of several lists, one after the other; None if there is a null or a value that does not fit."""
    entries = lists.values
    if lists.null_count or entries.null_count:
        return None
    if group.width is not None:
        if pa.types.is_list(entries.type) and (np.diff(entries.offsets.to_numpy()) != group.width).any():
            return None
        entries = entries.flatten()
        if entries.null_count:
            return None
    found = entries.to_numpy(zero_copy_only=False)
    if found.dtype == np.uint64 and found.max(initial=0) >= 2**63:
        return None
    # A copy: what Arrow has read is read-only, which PyTorch warns about.
    found = found.astype(group.dtype)
    return found if group.width is None else found.reshape(-1, group.width)
