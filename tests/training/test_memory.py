"""During a run, garbage is collected only at given steps, and freed blocks are kept after the first step."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import weakref

import pytest

from easq_rec.training.memory import COLLECT_EVERY_STEPS, HostMemory


class Node:
    """An object that refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.myself = self


def test_garbage_is_collected_only_at_given_steps() -> None:
    with HostMemory() as memory:
        assert not gc.isenabled()
        node = weakref.ref(Node())
        for step in range(1, COLLECT_EVERY_STEPS):
            memory.step(step)
        assert node() is not None
        memory.step(COLLECT_EVERY_STEPS)
        assert node() is None


def test_existing_objects_are_frozen_during_a_run() -> None:
    """The collector need not visit the objects of the model and of the libraries at every collection."""
    kept = [Node() for _ in range(3)]
    with HostMemory():
        assert gc.get_freeze_count() > len(kept)
        assert not any(thing is kept[0] for thing in gc.get_objects())
    assert gc.get_freeze_count() == 0
    assert any(thing is kept[0] for thing in gc.get_objects())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_state_of_the_collector_is_restored(enabled: bool) -> None:
    """The collector is enabled again only if it was enabled before, even if the run fails."""
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(RuntimeError, match="a step failed"), HostMemory():
            raise RuntimeError("a step failed")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


ALLOCATOR = """
import ctypes, json, numpy as np
from easq_rec.training.memory import HostMemory, keep_freed_memory

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo

def goes_back():
    # Whether a large block is mapped on its own, and so returned to the kernel when it is freed.
    before = libc.mallinfo2().hblkhd
    block = np.ones(16 << 20, np.uint8)
    return libc.mallinfo2().hblkhd - before >= len(block)

keep_freed_memory()
with HostMemory() as memory:
    found = [goes_back()]
    for step in (1, 2):
        memory.step(step)
        found.append(goes_back())
found.append(goes_back())
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library has no mallinfo2 (glibc 2.33)")
def test_freed_blocks_are_kept_from_the_first_step_on() -> None:
    """The test uses a separate process, because blocks that other tests freed in this one would be reused."""
    done = subprocess.run([sys.executable, "-c", ALLOCATOR], check=True, capture_output=True, text=True)
    before_the_first_step, *later = json.loads(done.stdout)
    assert before_the_first_step
    assert later == [False, False, False]
