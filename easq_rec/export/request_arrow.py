"""The columns of a request in Arrow: an IPC stream or file with one row, whose columns are lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.data.kinds import is_list
from easq_rec.export.bad_request import BadRequestError, check_names, expected_list
from easq_rec.export.inputs import Input

EXPECTED = "an Arrow IPC stream or file with one row, and a list for each column"


def columns_of_arrow(body: bytes, inputs: tuple[Input, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of the inputs' types and widths by name. Lengths and values are not checked.

    Raises BadRequestError.
    """
    try:
        batches = [batch for batch in _batches(body) if batch.num_rows]
        for batch in batches:
            batch.validate(full=True)
        # Names that are no text are found here.
        names = batches[0].schema.names if batches else []
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadRequestError("body", f"no Arrow ({error})", EXPECTED) from error
    rows = sum(batch.num_rows for batch in batches)
    if rows != 1:
        raise BadRequestError("body", f"Arrow with {rows} rows", EXPECTED)
    check_names(names, inputs)
    columns = dict(zip(names, batches[0].columns, strict=True))
    # A number that is too large for float32 becomes infinite, which is refused as a value.
    with np.errstate(over="ignore"):
        return {one.name: _array(one, columns[one.name]) for one in inputs}


def _batches(body: bytes) -> list[pa.RecordBatch]:
    if not body.startswith(b"ARROW1"):
        return list(pa.ipc.open_stream(body))
    opened = pa.ipc.open_file(body)
    return [opened.get_batch(place) for place in range(opened.num_record_batches)]


def _array(one: Input, column: pa.Array) -> NDArray[Any]:
    """A list column with one row as an array of the input's type and width."""
    array = _only_list(one, column)
    entries = len(array)
    if one.width is not None:
        array = _flat(one, array)
    if not (pa.types.is_integer(array.type) or (pa.types.is_floating(array.type) and one.dtype == "float32")):
        raise BadRequestError(one.name, f"of type {column.type}", expected_list(one))
    if array.null_count:
        raise BadRequestError(one.name, "a list with null", expected_list(one))
    found = array.to_numpy(zero_copy_only=False)
    if found.dtype == np.uint64 and len(found) and found.max() >= 2**63:
        raise BadRequestError(one.name, f"a list with {found.max()}", expected_list(one))
    # A copy: what Arrow has read is read-only, which PyTorch warns about.
    return found.astype(one.dtype) if one.width is None else found.astype(one.dtype).reshape(entries, one.width)


def _only_list(one: Input, column: pa.Array) -> pa.Array:
    """The entries of the only row."""
    if not _lists(column.type):
        raise BadRequestError(one.name, f"of type {column.type}", expected_list(one))
    if column.null_count:
        raise BadRequestError(one.name, "null", expected_list(one))
    return column[0].values


def _flat(one: Input, lists: pa.Array) -> pa.Array:
    """The numbers of lists that are all as long as the input is wide."""
    if not _lists(lists.type):
        raise BadRequestError(one.name, f"a list of {lists.type}", expected_list(one))
    if lists.null_count:
        raise BadRequestError(one.name, "a list with null", expected_list(one))
    if pa.types.is_fixed_size_list(lists.type):
        if lists.type.list_size != one.width:
            raise BadRequestError(one.name, f"lists of {lists.type.list_size} numbers", expected_list(one))
    else:
        sizes = np.diff(lists.offsets.to_numpy())
        if (sizes != one.width).any():
            raise BadRequestError(one.name, f"lists of {sorted(set(sizes.tolist()))} numbers", expected_list(one))
    return lists.flatten()


def _lists(dtype: pa.DataType) -> bool:
    return is_list(dtype) or pa.types.is_fixed_size_list(dtype)
