"""Traces a served program with `torch.export`, for any number of requests, history entries, candidates and items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from easq_rec.export.inputs import CANDIDATE_SLOTS, CANDIDATES, HISTORY_SLOTS, LEAST_SLOTS, REQUESTS
from easq_rec.export.program import ServedProgram
from easq_rec.upstream.torch_export import sizes_of_one_are_sizes

MOST = 2**30
"""Largest size of an axis."""
LEAST = {REQUESTS: 1, CANDIDATES: 1, HISTORY_SLOTS: LEAST_SLOTS, CANDIDATE_SLOTS: LEAST_SLOTS}
"""Smallest sizes of axes that cannot be empty."""


@torch.no_grad()
def trace(program: ServedProgram, example: Sequence[Tensor]) -> ExportedProgram:
    """The program as a graph of aten operators.

    Args:
        example: inputs of a few requests; every axis needs a size of its own, of 2 or more.

    Raises:
        torch's UserError: a size became a constant of the graph.
    """
    dims: dict[str, Dim] = {}
    for one in program.inputs:
        # A name of sympy, such as N, would be a number.
        name = "size_of_" + "".join(letter if letter.isalnum() else "_" for letter in one.axis)
        dims.setdefault(one.axis, Dim(f"{name}_{len(dims)}", min=LEAST.get(one.axis, 0), max=MOST))
    shapes = tuple({0: dims[one.axis]} for one in program.inputs)
    with sizes_of_one_are_sizes():
        return torch.export.export(program, tuple(example), dynamic_shapes=(shapes,), strict=False)
