"""Encoded requests as named arrays, for a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping

from easq_rec.data.columns import Array, Ragged
from easq_rec.data.encode import EncodedRequests

OFFSETS = "offsets"
MARK = "/"
"""Between the parts of a name, which no column has."""


def named_arrays(requests: EncodedRequests) -> dict[str, Array]:
    """Every array by a name that says where it belongs."""
    arrays = {f"scalars{MARK}{name}": column for name, column in requests.scalars.items()}
    for name, column in requests.lists.items():
        arrays |= _flat(f"lists{MARK}{name}", column)
    return arrays | _flat("history", requests.history) | _flat("candidates", requests.candidates)


def requests_of(arrays: Mapping[str, Array]) -> EncodedRequests:
    """The inverse of `named_arrays`."""
    names = {key.split(MARK)[1] for key in arrays if key.startswith(f"lists{MARK}")}
    return EncodedRequests(
        scalars={
            key.removeprefix(f"scalars{MARK}"): column
            for key, column in arrays.items()
            if key.startswith(f"scalars{MARK}")
        },
        lists={name: _ragged(f"lists{MARK}{name}", arrays) for name in sorted(names)},
        history=_ragged("history", arrays),
        candidates=_ragged("candidates", arrays),
    )


def _flat(prefix: str, column: Ragged) -> dict[str, Array]:
    arrays: dict[str, Array] = {f"{prefix}{MARK}{OFFSETS}": column.offsets}
    for name, child in column.children.items():
        key = f"{prefix}{MARK}column{MARK}{name}"
        if isinstance(child, Ragged):
            arrays |= _flat(key, child)
        else:
            arrays[key] = child
    return arrays


def _ragged(prefix: str, arrays: Mapping[str, Array]) -> Ragged:
    begin = f"{prefix}{MARK}column{MARK}"
    children: dict[str, Array | Ragged] = {}
    for key in arrays:
        if key.startswith(begin):
            name, *rest = key.removeprefix(begin).split(MARK)
            children[name] = _ragged(f"{begin}{name}", arrays) if rest else arrays[key]
    return Ragged(offsets=arrays[f"{prefix}{MARK}{OFFSETS}"], children=children)
