"""Within a run garbage is collected at given steps alone, and afterwards the collector is as it was."""

from __future__ import annotations

import gc
import weakref

import pytest

from easq_rec.training.garbage import EVERY_STEPS, GarbageCollection


class Node:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.myself = self


def test_only_at_its_steps() -> None:
    with GarbageCollection() as garbage:
        assert not gc.isenabled()
        node = weakref.ref(Node())
        for step in range(1, EVERY_STEPS):
            garbage.step(step)
        assert node() is not None
        garbage.step(EVERY_STEPS)
        assert node() is None


def test_what_is_there_before_is_left_alone() -> None:
    """The model and the libraries need not be walked through at every collection."""
    kept = [Node() for _ in range(3)]
    with GarbageCollection():
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
        with pytest.raises(RuntimeError, match="a step failed"), GarbageCollection():
            raise RuntimeError("a step failed")
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()
