"""Python's cyclic garbage collector, at the same step on every rank.

Left to itself it runs whenever a process has allocated enough objects, which is at other moments on each rank: the
others then wait for it in their next collective. And it walks through all objects of torch, TorchRec and the model each
time, although none of them is ever garbage. TorchTNT has a callback with the same purpose.
"""

from __future__ import annotations

import gc
from types import TracebackType

EVERY_STEPS = 100


class GarbageCollection:
    """Within it nothing is collected but by `step`; on leaving, the collector is as it was."""

    def __enter__(self) -> GarbageCollection:
        self._enabled = gc.isenabled()
        gc.disable()
        gc.collect()
        gc.freeze()
        return self

    def step(self, step: int) -> None:
        """Collects after every so many steps."""
        if step % EVERY_STEPS == 0:
            gc.collect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.unfreeze()
        if self._enabled:
            gc.enable()
