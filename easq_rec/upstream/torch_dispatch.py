"""Operators as a TorchDispatchMode sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HOST_READS", "TorchDispatchMode", "name", "overload_packet", "returns_view"]

HOST_READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.unique_consecutive.default,
    # A number from Python as a tensor: its copy to a GPU is waited for.
    torch.ops.aten.lift_fresh.default,
)
"""Operators for which the host waits for a GPU."""


def name(operator: Any) -> str:
    """Name of an operator without namespace and overload: `addmm` of aten::addmm.out."""
    return str(operator._opname)


def overload_packet(operator: Any) -> str:
    """Name of an operator with namespace, without overload: `aten.addmm`."""
    return str(operator._overloadpacket)


def returns_view(operator: Any) -> bool:
    """Whether a result shares memory with an argument that the operator does not write to."""
    return any(value.alias_info is not None and not value.alias_info.is_write for value in operator._schema.returns)
