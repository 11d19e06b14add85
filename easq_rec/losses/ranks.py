"""What the losses ask of the processes that train together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Pending = Callable[[], Tensor]
"""Waits for an exchange that is under way, and returns what it found."""


class Ranks(Protocol):
    """The runtime provides the real ones. All ranks make the same calls in the same order."""

    size: int

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks."""

    def start_sum(self, value: Tensor) -> Pending:
        """The same, without waiting for it."""

    def start_gather(self, value_XA: Tensor, room: int, fill: float) -> Pending:
        """The columns of all ranks, (X, B); each has at most `room` of them, and missing ones may come as `fill`."""


class OneRank:
    """A process on its own."""

    size = 1

    def sum(self, value: Tensor) -> Tensor:
        return value

    def start_sum(self, value: Tensor) -> Pending:
        return lambda: value

    def start_gather(self, value_XA: Tensor, room: int, fill: float) -> Pending:
        return lambda: value_XA
