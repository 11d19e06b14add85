"""The inputs of a served program: flat tensors of raw columns, named as in the data contract.

The columns of all requests lie one after the other. So do their history entries, their candidates, and the items of
lists. Lengths say which belong together.

Legend: R requests, H history entries, N candidates, L and C slots, V items of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from easq_rec.config import Config
from easq_rec.data.columns import Array, Ragged, RequestColumns
from easq_rec.data.kinds import VALUES, WEIGHTS, Column
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError

REQUESTS, HISTORY, CANDIDATES = "requests", "history", "candidates"
HISTORY_SLOTS, CANDIDATE_SLOTS = "history_slots", "candidate_slots"
LEAST_SLOTS = 2
"""The compiler would make a size of 1 a constant."""
DTYPES = {"int64": torch.int64, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Input:
    """One tensor that a program is called with."""

    name: str
    """Path of the column, such as `candidates.duration_ms`, or the lengths or weights of lists."""
    dtype: Literal["int64", "float32"]
    axis: str
    """What it has entries of: `requests`, `history`, `candidates`, one of the slots, or the path of a list."""
    width: int | None = None
    """Numbers of each entry; None: the tensor has one dimension."""
    count: bool = False
    """Whether the numbers are a count: shown, happened, prior."""

    @property
    def shape(self) -> tuple[str | int, ...]:
        """The axis, then the width."""
        return (self.axis,) if self.width is None else (self.axis, self.width)


def lengths(path: str) -> str:
    """Name of the input with the lengths of histories, of candidates, or of a column of lists."""
    return f"lengths:{path}"


def weights(path: str) -> str:
    """Name of the input with the weights of a column of weighted ids."""
    return f"weights:{path}"


def inputs_of(config: Config, *, satisfaction: bool) -> tuple[Input, ...]:
    """The inputs of a program in their order.

    Args:
        satisfaction: whether the satisfaction score is a part of the served score.
    """
    inputs = [
        Input(name="timestamp_ms", dtype="int64", axis=REQUESTS),
        Input(name=lengths(HISTORY), dtype="int64", axis=REQUESTS),
        Input(name=lengths(CANDIDATES), dtype="int64", axis=REQUESTS),
        Input(name=HISTORY_SLOTS, dtype="int64", axis=HISTORY_SLOTS),
        Input(name=CANDIDATE_SLOTS, dtype="int64", axis=CANDIDATE_SLOTS),
    ]
    for column in columns_of(config, satisfaction=satisfaction):
        inputs += inputs_of_column(column)
    return tuple(inputs)


def columns_of(config: Config, *, satisfaction: bool) -> list[Column]:
    """The columns that a program reads besides the time of the request."""
    schema = config.schema
    read = {"history.timestamp_ms", "history.watch_ratio"}
    read |= {"user_id" if f.column == "user_id" else f"user.{f.column}" for f in schema.user}
    read |= {f"history.{f.column}" for f in schema.history}
    read |= {f"candidates.{f.column}" for f in schema.candidate}
    read |= {f"candidates.{f.column}" for f in schema.satisfaction if satisfaction}
    return [column for column in Layout.of(schema, outcomes=False).columns if column.path in read]


def inputs_of_column(column: Column) -> list[Input]:
    """The inputs of one column: one, or more for lists."""
    path = column.path
    axis = path.split(".")[0] if path.startswith((f"{HISTORY}.", f"{CANDIDATES}.")) else REQUESTS
    match column.kind:
        case "id":
            return [Input(name=path, dtype="int64", axis=axis)]
        case "float":
            return [Input(name=path, dtype="float32", axis=axis)]
        case "float_list":
            return [Input(name=path, dtype="float32", axis=axis, width=column.length)]
        case "count":
            return [Input(name=path, dtype="float32", axis=axis, width=3, count=True)]
        case "id_list" | "weighted_id_list":
            lists = [Input(name=lengths(path), dtype="int64", axis=axis), Input(name=path, dtype="int64", axis=path)]
            if column.kind == "weighted_id_list":
                lists.append(Input(name=weights(path), dtype="float32", axis=path))
            return lists
    raise AssertionError(column.kind)


def tensors_of(inputs: Sequence[Input], requests: RequestColumns, *, max_history: int) -> tuple[Tensor, ...]:
    """The inputs of some requests, as `RequestDataset` reads them.

    Raises UserError: there is no candidate.
    """
    history, candidates = requests.history.last(max_history), requests.candidates
    if not candidates.offsets[-1]:
        raise UserError("the requests have no candidates: send at least one")
    found: dict[str, Array] = {}
    for group, ragged, slots in ((HISTORY, history, HISTORY_SLOTS), (CANDIDATES, candidates, CANDIDATE_SLOTS)):
        found[lengths(group)] = ragged.lengths
        found[slots] = np.arange(max(int(ragged.lengths.max(initial=0)), LEAST_SLOTS))
        _add(found, {f"{group}.{name}": child for name, child in ragged.children.items()})
    _add(found, requests.scalars)
    _add(found, requests.lists)
    return tuple(torch.from_numpy(found[one.name].astype(one.dtype, copy=False)) for one in inputs)


def _add(found: dict[str, Array], columns: Mapping[str, Array | Ragged]) -> None:
    for path, column in columns.items():
        if isinstance(column, Ragged):
            found[lengths(path)] = column.lengths
            found[path] = column.column(VALUES)
            if WEIGHTS in column.children:
                found[weights(path)] = column.column(WEIGHTS)
        else:
            found[path] = column


def example_of(inputs: Sequence[Input]) -> tuple[Tensor, ...]:
    """Inputs of three requests, for a trace: every axis has a size of its own. All values are 0 but lengths."""
    axes = list(dict.fromkeys(one.axis for one in inputs))
    sizes = {axis: 3 + place for place, axis in enumerate(axes)}
    # Slots for the longest list: one request has all entries.
    sizes[HISTORY_SLOTS] = sizes[HISTORY] + len(axes)
    sizes[CANDIDATE_SLOTS] = sizes[CANDIDATES] + 2 * len(axes)
    found = []
    for one in inputs:
        width = () if one.width is None else (one.width,)
        tensor = torch.zeros(sizes[one.axis], *width, dtype=DTYPES[one.dtype])
        if one.name.startswith(lengths("")):
            tensor[0] = sizes[one.name.removeprefix(lengths(""))]
        found.append(tensor)
    return tuple(found)
