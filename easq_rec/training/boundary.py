"""Where a backward pass comes from the network to the tables, whose optimizer runs within it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Boundary:
    """Stands between them.

    Autograd differentiates first what was computed last. All of the network was computed after what the tables
    returned: when the first gradient comes here, those of the network's parameters are complete.

    Args:
        arrive: called once in a backward pass, before any gradient is passed on.
        pass_on: is given the gradient of everything that the tables returned, and returns what they are given.
    """

    def __init__(self, arrive: Callable[[], None], pass_on: Callable[[Tensor], Tensor]) -> None:
        self._arrive = arrive
        self._pass_on = pass_on
        self._arrived = False

    def watch(self, embedded: Tensor) -> Tensor:
        """What the tables returned, as it is."""
        self._arrived = False
        if embedded.requires_grad:
            embedded.register_hook(self._come)
        return embedded

    def _come(self, gradient: Tensor) -> Tensor:
        if not self._arrived:
            self._arrived = True
            self._arrive()
        return self._pass_on(gradient)
