"""What torch knows about a tensor and does not document."""

from __future__ import annotations

from torch import Tensor


def version(tensor: Tensor) -> int:
    """Counts how often the tensor was written to in place."""
    return tensor._version


def holders(tensor: Tensor) -> int:
    """Number of references to the tensor in Python and C++; Python's references count as one."""
    return int(tensor._use_count())  # type: ignore[attr-defined]
