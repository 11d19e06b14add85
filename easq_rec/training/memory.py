"""The process's memory during training: Python's cyclic garbage, and what glibc does with freed blocks."""

from __future__ import annotations

import ctypes
import gc
from types import TracebackType

COLLECT_EVERY_STEPS = 100

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GLIBC_MMAP_THRESHOLD = 128 << 10


class HostMemory:
    """Within it `step` is called after every training step; on leaving, the collector is as it was.

    Garbage is collected at the same step on every rank. Left to itself the collector runs whenever a process has
    allocated enough objects, which is at other moments on each rank: the others then wait for it in their next
    collective. And it walks through all objects of torch, TorchRec and the model each time, although none of them is
    ever garbage. TorchTNT has a callback with the same purpose.

    The first step gives every large block back when it is freed; from then on they are kept (`keep_freed`). The first
    step also allocates what stays, such as the optimizer's state and oneDNN's kernels. In memory that activations have
    left behind, it would lie scattered over the space that the activations of later steps need.
    """

    def __enter__(self) -> HostMemory:
        self._enabled = gc.isenabled()
        self._first = True
        gc.disable()
        gc.collect()
        gc.freeze()
        _set_mmap_threshold(_GLIBC_MMAP_THRESHOLD)
        return self

    def step(self, step: int) -> None:
        """What is due after step number `step`."""
        if self._first:
            self._first = False
            keep_freed()
        if step % COLLECT_EVERY_STEPS == 0:
            gc.collect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep_freed()
        gc.unfreeze()
        if self._enabled:
            gc.enable()


def keep_freed() -> None:
    """Tells glibc not to return large blocks to the kernel: every step would fault the same pages in again."""
    _set_mmap_threshold(1 << 30)


def _set_mmap_threshold(size: int) -> None:
    libc = ctypes.CDLL(None)
    # Other C libraries lack it, and do as they think best.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, size)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
