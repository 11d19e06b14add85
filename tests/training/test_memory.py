"""Within a run garbage is collected at given steps alone, and freed blocks are kept from its first step on."""

from __future__ import annotations

import ctypes
import gc
import weakref

import numpy as np
import pytest

from easq_rec.training.memory import COLLECT_EVERY_STEPS, HostMemory


class Node:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.myself = self


def test_only_at_its_steps() -> None:
    with HostMemory() as memory:
        assert not gc.isenabled()
        node = weakref.ref(Node())
        for step in range(1, COLLECT_EVERY_STEPS):
            memory.step(step)
        assert node() is not None
        memory.step(COLLECT_EVERY_STEPS)
        assert node() is None


def test_what_is_there_before_is_left_alone() -> None:
    """The model and the libraries need not be walked through at every collection."""
    kept = [Node() for _ in range(3)]
    with HostMemory():
        assert gc.get_freeze_count() > len(kept)
        assert not any(thing is kept[0] for thing in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(thing is kept[0] for thing in gc.get_objects())


@pytest.mark.parametrize("enabled", [True, False])
def test_afterwards_it_is_as_it_was(enabled: bool) -> None:
    """Also when the run fails."""
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(RuntimeError, match="a step failed"), HostMemory():
            raise RuntimeError("a step failed")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def mapped_bytes() -> int:
    """Bytes in blocks that glibc maps one by one, and returns to the kernel when they are freed."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this C library has no mallinfo2 (glibc 2.33 has)")
    libc.mallinfo2.restype = MallInfo
    return int(libc.mallinfo2().hblkhd)


def mapped_by_a_block(size: int) -> int:
    """By how much `mapped_bytes` grows with a new block."""
    before = mapped_bytes()
    block = np.ones(size, np.uint8)
    return mapped_bytes() - before if len(block) else 0


def test_freed_blocks_are_kept_from_the_first_step_on() -> None:
    size = 16 << 20
    with HostMemory() as memory:
        assert mapped_by_a_block(size) >= size, "what the first step frees goes back"
        memory.step(1)
        assert mapped_by_a_block(size) == 0
        memory.step(2)
        assert mapped_by_a_block(size) == 0
    assert mapped_by_a_block(size) == 0


def test_a_run_without_a_step_leaves_the_allocator_as_evaluation_needs_it() -> None:
    with HostMemory():
        pass
    assert mapped_by_a_block(16 << 20) == 0
