"""The work of a step, counted from its operators: multiplications and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from easq_rec.upstream import torch_dispatch, torch_operators

MIB = 2**20


def _linear_flops(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    rows = 1
    for size in x[:-1]:
        rows *= size
    return 2 * rows * x[-1] * weight[0]


def _addmm_flops(_: Any, one: tuple[int, ...], two: tuple[int, ...], *__: Any, **___: Any) -> int:
    return 2 * one[0] * one[1] * two[1]


OTHERS = {
    name: count
    for name, count in (
        (torch_operators.onednn_linear_packet(), _linear_flops),
        (torch.ops.aten.addmm_, _addmm_flops),
    )
    if name is not None
}
"""Products that torch's counter does not support."""


@dataclass
class Traffic(torch_dispatch.TorchDispatchMode):
    """Bytes that operators read and write, without caching between operators.

    FBGEMM's table updates are not visible as operators: for every row that a lookup returns, its gradient is read, and
    the row is read and written.
    """

    bytes: int = 0
    largest: int = 0
    """FBGEMM inputs above this number of bytes are tables, of which only the returned rows are read."""
    by_operator: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _moves_nothing(func):
            return out
        table = func.namespace == "fbgemm"
        size = _size(out) * (1 + UPDATE if table and "codegen_forward" in torch_dispatch.name(func) else 1)
        for value in (*args, *(kwargs or {}).values()):
            size += _size(value, most=self.largest if table else None)
        self.bytes += size
        name = torch_dispatch.overload_packet(func)
        self.by_operator[name] = self.by_operator.get(name, 0) + size
        return out


UPDATE = 3
"""Memory traffic of a row update, in rows."""


def _moves_nothing(func: Any) -> bool:
    """Whether an operator only makes a view or allocates memory."""
    no_copy = torch_dispatch.name(func).startswith(("empty", "new_empty", "_unsafe_view"))
    return no_copy or torch_dispatch.returns_view(func)


def _size(value: Any, most: int | None = None) -> int:
    if isinstance(value, Tensor):
        size = value.numel() * value.element_size()
        return size if most is None or size <= most else 0
    return sum(_size(part, most) for part in value) if isinstance(value, list | tuple) else 0


class Work:
    """Counts the operators of a block, on this thread and in the backward passes that it starts.

    Args:
        table_bytes: minimum size of an input that counts as a table.
    """

    def __init__(self, table_bytes: int = MIB) -> None:
        self._flops = FlopCounterMode(display=False, custom_mapping=OTHERS)
        self._traffic = Traffic(largest=table_bytes)

    def __enter__(self) -> Work:
        self._flops.__enter__()
        self._traffic.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._traffic.__exit__(*error)
        self._flops.__exit__(*error)

    @property
    def flops(self) -> int:
        """Additions and multiplications of matrix products, padding to a grid of rows included."""
        return int(self._flops.get_total_flops())

    @property
    def bytes(self) -> int:
        return self._traffic.bytes

    @property
    def by_operator(self) -> dict[str, int]:
        """Bytes of each operator."""
        return self._traffic.by_operator
