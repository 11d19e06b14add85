"""The process's memory during training: Python's cyclic garbage, and freed blocks in glibc."""

from __future__ import annotations

import ctypes
import gc
from types import TracebackType

COLLECT_EVERY_STEPS = 100

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GLIBC_MMAP_THRESHOLD = 128 << 10


class HostMemory:
    """Context manager; `step` is called after every training step, and the exit restores the collector's settings.

    Garbage is collected at the same step on every rank. By default the collector runs whenever a process has allocated
    enough objects, so at a different time on each rank, and the other ranks wait in their next collective. Each run
    also visits all objects of torch, TorchRec and the model, which are never garbage. TorchTNT has a callback with the
    same purpose.

    During the first step, large freed blocks return to the kernel; after it they are kept (`keep_freed_memory`). The
    first step also allocates long-lived memory, such as the optimizer's state and oneDNN's kernels. In blocks freed by
    activations, it would fragment the space that the activations of later steps need.
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
        """Does the work that is due after step number `step`."""
        if self._first:
            self._first = False
            keep_freed_memory()
        if step % COLLECT_EVERY_STEPS == 0:
            gc.collect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep_freed_memory()
        gc.unfreeze()
        if self._enabled:
            gc.enable()


def keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks, because otherwise every step would fault the same pages in again."""
    _set_mmap_threshold(1 << 30)


def _set_mmap_threshold(size: int) -> None:
    libc = ctypes.CDLL(None)
    # Other C libraries lack it and keep their defaults.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, size)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
