"""The columns of a request in JSON: an object with one list for each input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.export.bad_request import BadRequestError, check_names, expected_list
from easq_rec.export.inputs import Input

OBJECT = "an object with a list for each column"


def columns_of_json(body: bytes, inputs: tuple[Input, ...]) -> dict[str, NDArray[Any]]:
    """Arrays of the inputs' types and widths by name. Lengths and values are not checked.

    Raises BadRequestError.
    """
    try:
        values = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("body", f"no JSON ({error})", OBJECT) from error
    if not isinstance(values, dict):
        raise BadRequestError("body", _kind(values), OBJECT)
    check_names(list(values), inputs)
    return {one.name: _array(one, values[one.name]) for one in inputs}


def _array(one: Input, values: object) -> NDArray[Any]:
    """A list of JSON as an array of the input's type and width."""
    what = expected_list(one)
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


def _fits(value: object, one: Input) -> bool:
    if isinstance(value, bool):
        return False
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    return whole or (isinstance(value, float) and one.dtype == "float32")


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(
        type(value), f"{value!r}"
    )


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs. Of a name that is there twice, one list would be ignored."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} is there twice")
        found[name] = value
    return found
