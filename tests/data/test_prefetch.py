"""Prefetching gives the same items, raises errors in order, and leaves no thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Generator

import pytest

from easq_rec.data.prefetch import prefetched


class Items:
    """A source of numbers that records how many were made, in which threads, and whether it was closed."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.made = 0
        self.closed = False
        self.threads: set[str] = set()
        self._count, self._fails_at = count, fails_at

    def generate(self) -> Generator[int, None, None]:
        try:
            for number in range(self._count):
                self.threads.add(threading.current_thread().name)
                if number == self._fails_at:
                    raise ValueError(f"item {number} is bad")
                self.made += 1
                yield number
        finally:
            self.closed = True


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize(("finish", "made"), [(False, 3), (True, 4)])
def test_what_is_made_of_the_items_that_were_asked_for(finish: bool, made: int) -> None:
    """One item was taken, and three more were asked for, of which one is being made when the stream is closed."""
    begun, go_on, count = threading.Event(), threading.Event(), 0

    def items() -> Generator[int, None, None]:
        nonlocal count
        while True:
            if count == 2:
                begun.set()
                go_on.wait(30)
            count += 1
            yield count

    stream = prefetched(items(), 3, finish=finish)
    next(stream)
    assert begun.wait(30)
    closing = threading.Thread(target=stream.close)
    closing.start()
    time.sleep(0.1)
    go_on.set()
    closing.join(30)
    assert count == made


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_items_and_their_order_do_not_depend_on_the_depth(depth: int, count: int) -> None:
    items = Items(count)
    assert list(prefetched(items.generate(), depth)) == list(range(count))
    assert items.closed and not running()
    assert all(name.startswith("batches" if depth else "MainThread") for name in items.threads)


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_error_is_raised_in_place_of_its_item(depth: int) -> None:
    items = Items(9, fails_at=3)
    stream = prefetched(items.generate(), depth)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3 is bad"):
        next(stream)
    assert items.closed and not running()


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_depth_items_are_prefetched(depth: int) -> None:
    items = Items(100)
    stream = prefetched(items.generate(), depth)
    assert next(stream) == 0
    deadline = time.monotonic() + 60
    # One item was taken, and `depth` items are ready.
    while items.made < depth + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert items.made == depth + 1
    stream.close()
    assert items.closed and not running()


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_closing_early_closes_the_items(taken: int) -> None:
    items = Items(100)
    stream = prefetched(items.generate(), 2)
    for number in range(taken):
        assert next(stream) == number
    stream.close()
    assert not running()
    assert items.closed or not items.threads


LEFT_OPEN = """
import torch
from easq_rec.data.prefetch import prefetched

def sums():
    while True:
        yield torch.cat([torch.zeros(1_000_000)] * 2)

stream = prefetched(sums(), 100)
next(stream)
"""


def test_a_process_can_exit_in_the_middle_of_a_stream() -> None:
    """A daemon thread that is inside torch while the interpreter ends would abort the process."""
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
