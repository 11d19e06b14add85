"""Messages of a broker: requests as an Arrow IPC stream, or as JSON.

Arrow is for all who can write it: a message has a batch of requests in the types of the data contract, and its buffers
may be compressed with zstd. JSON is for small teams: a message is one request as an object, or a list of them, with the
same names. An integer is a number without a point, a flag may be true or false, and null stands for what is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from easq_rec import json_file
from easq_rec.data.columns import offsets_of
from easq_rec.data.kinds import COUNT_FIELDS, Column
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError

ARROW = b"\xff\xff\xff\xff"
"""The first bytes of an Arrow IPC stream. No JSON begins with them."""
TOGETHER = 64
"""Requests in JSON that are converted together: more of them at once do not fit into the cache of a CPU."""
NULL = type(None)
LISTS = ("history", "candidates")
"""Columns of a request that are lists of structs; `user` is a struct."""


class BadMessage(UserError):
    """A message that cannot be decoded. The text is the reason."""


def message_of(table: pa.Table) -> bytes:
    """Requests of the data contract as an Arrow IPC stream, compressed with zstd."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


class MessageDecoder:
    """Decodes messages with the columns of a layout. Not thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._checked: pa.Schema | None = None
        self._truths = {column.path for column in layout.columns if column.kind in ("flag", "float")}
        self._json_schema = _json_schema(layout.columns)

    def rows(self, message: bytes) -> pa.Table:
        """The rows of a message, valid as Arrow, with at least the columns of the layout in types that it accepts.

        Values are not checked. An Arrow message comes with all of its columns, JSON with those of the layout.

        Raises:
            BadMessage: it is damaged, or lacks a column, or has one of another type.
        """
        return self._of_arrow(message) if message.startswith(ARROW) else self._of_json(_requests(message))

    def tables(self, messages: Sequence[bytes]) -> list[pa.Table | BadMessage]:
        """The rows of each message, or what is wrong with it.

        Small JSON messages are converted together, which is far faster.
        """
        found: list[pa.Table | BadMessage] = []
        parts: list[list[Any] | pa.Table | BadMessage] = []
        waiting = 0
        for message in messages:
            try:
                part = self._of_arrow(message) if message.startswith(ARROW) else _requests(message)
            except BadMessage as bad:
                part = bad
            parts.append(part)
            waiting += len(part) if isinstance(part, list) else 0
            if waiting >= TOGETHER:
                found += self._converted(parts)
                parts, waiting = [], 0
        return found + self._converted(parts)

    def _converted(self, parts: list[list[Any] | pa.Table | BadMessage]) -> list[pa.Table | BadMessage]:
        """The same with tables in place of lists of JSON objects."""
        lists = [part for part in parts if isinstance(part, list)]
        try:
            whole = self._of_json(list(chain.from_iterable(lists))) if lists else None
        except BadMessage:
            return [self._attempted(part) if isinstance(part, list) else part for part in parts]
        found: list[pa.Table | BadMessage] = []
        begin = 0
        for part in parts:
            if isinstance(part, list):
                assert whole is not None
                found.append(whole.slice(begin, len(part)))
                begin += len(part)
            else:
                found.append(part)
        return found

    def _attempted(self, requests: list[Any]) -> pa.Table | BadMessage:
        try:
            return self._of_json(requests)
        except BadMessage as bad:
            return bad

    def _of_arrow(self, message: bytes) -> pa.Table:
        try:
            # Threads of Arrow cost twice as much CPU for so few rows.
            options = pa.ipc.IpcReadOptions(use_threads=False)
            with pa.ipc.open_stream(message, options=options) as reader:
                self._check(reader.schema)
                table = reader.read_all()
            # Offsets of a damaged message may point anywhere.
            table.validate(full=True)
        except BadMessage:
            raise
        except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
            raise BadMessage(f"no valid Arrow IPC stream: {error}") from error
        return table

    def _check(self, schema: pa.Schema) -> None:
        if self._checked is not None and schema.equals(self._checked):
            return
        try:
            self._layout.check(schema, "the message")
        except UserError as error:
            raise BadMessage(str(error)) from error
        self._checked = schema

    def _of_json(self, requests: list[Any]) -> pa.Table:
        return pa.table(
            [self._array(_field(requests, field.name, ""), field.type, field.name) for field in self._json_schema],
            schema=self._json_schema,
        )

    def _array(self, values: list[Any], dtype: pa.DataType, path: str) -> pa.Array:
        """Values of JSON as an array. Raises BadMessage for a value of another type, or an object without a field."""
        kinds = set(map(type, values))
        mask = pa.array([value is None for value in values]) if NULL in kinds else None
        kinds.discard(NULL)
        if pa.types.is_struct(dtype):
            if kinds - {dict}:
                _refuse(values, {dict, NULL}, path, "an object")
            if mask is not None and not kinds:
                return pa.nulls(len(values), dtype)
            children = [self._array(_field(values, f.name, f"{path}."), f.type, f"{path}.{f.name}") for f in dtype]
            return pa.StructArray.from_arrays(children, fields=list(dtype), mask=mask)
        if pa.types.is_list(dtype):
            if kinds - {list}:
                _refuse(values, {list, NULL}, path, "a list")
            lists = values if mask is None else [value or () for value in values]
            offsets = pa.array(offsets_of(np.fromiter(map(len, lists), np.int64, len(lists))), pa.int32())
            entries = self._array(list(chain.from_iterable(lists)), dtype.value_type, path)
            return pa.ListArray.from_arrays(offsets, entries, type=dtype, mask=mask)
        if pa.types.is_integer(dtype):
            if kinds - {int}:
                _refuse(values, {int, NULL}, path, "an integer")
        else:
            allowed = {int, float, bool} if path in self._truths else {int, float}
            if kinds - allowed:
                _refuse(values, {*allowed, NULL}, path, "a number, true or false" if bool in allowed else "a number")
            if int in kinds:
                # Arrow refuses integers that a float cannot hold exactly.
                values = [value if value is None else _float(value) for value in values]
        try:
            return pa.array(values, dtype)
        except OverflowError as error:
            raise BadMessage(f"{path}: an integer does not fit into 64 bits") from error


def _requests(message: bytes) -> list[Any]:
    """The objects of a JSON message."""
    try:
        found = json.loads(message, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"neither an Arrow IPC stream nor JSON: {error}") from error
    requests = found if isinstance(found, list) else [found]
    if set(map(type, requests)) - {dict}:
        _refuse(requests, {dict}, "the message", "an object, or a list of objects")
    return requests


def _field(values: list[Any], name: str, prefix: str) -> list[Any]:
    """A field of each object; None of null."""
    try:
        try:
            return [value[name] for value in values]
        except TypeError:
            return [value if value is None else value[name] for value in values]
    except KeyError as error:
        raise BadMessage(f"{prefix}{name}: missing") from error


def _refuse(values: list[Any], allowed: set[type], path: str, expected: str) -> NoReturn:
    """Raises BadMessage about the first value of another type."""
    found = json_file.text(next(value for value in values if type(value) not in allowed))
    raise BadMessage(f"{path}: found {found if len(found) < 80 else found[:77] + '...'}, expected {expected}")


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _json_schema(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow types that JSON is given: integers and floats of 64 bits, which `decode` converts as those of files."""
    plain: dict[str, pa.DataType] = {}
    nested: dict[str, list[pa.Field]] = {}
    for column in columns:
        parent, dot, name = column.path.partition(".")
        if dot:
            nested.setdefault(parent, []).append(pa.field(name, _json_type(column)))
        else:
            plain[parent] = _json_type(column)
    structs = {name: pa.struct(fields) for name, fields in nested.items()}
    return pa.schema(
        {**plain, **{name: pa.list_(dtype) if name in LISTS else dtype for name, dtype in structs.items()}}
    )


def _json_type(column: Column) -> pa.DataType:
    match column.kind:
        case "id" | "answer" | "optional_time":
            return pa.int64()
        case "id_list":
            return pa.list_(pa.int64())
        case "weighted_id_list":
            return pa.list_(pa.struct({"id": pa.int64(), "weight": pa.float64()}))
        case "float" | "flag" | "amount" | "optional_float":
            return pa.float64()
        case "float_list":
            return pa.list_(pa.float64())
        case "count":
            return pa.struct(dict.fromkeys(COUNT_FIELDS, pa.float64()))
