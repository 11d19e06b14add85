"""What is made of the stacks of a process: phase, collective, and the thread that the main one waits for."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torchrec.distributed.types import LazyAwaitable

from easq_rec.data.prefetch import made_ahead
from easq_rec.training.checkpoint.checkpointer import Checkpointer
from easq_rec.training.health.stacks import PACKAGE, PHASES, WORKERS, Doing, describe, look
from easq_rec.training.process import Exchange


def there(doing: Doing) -> bool:
    """Whether a thread that is seen waits for an event, as all of them do at last."""
    return "waiter.acquire()" in doing.stack


def seen_in(blocks: Callable[[threading.Event], object], arrived: Callable[[Doing], bool] = there) -> Doing:
    """What is seen of a process whose main thread runs this until the event is set, once it has arrived there."""
    over, deadline = threading.Event(), time.monotonic() + 30
    thread = threading.Thread(target=blocks, args=(over,))
    thread.start()
    try:
        assert thread.ident is not None
        assert describe(sys._current_frames()[thread.ident])
        while not arrived(doing := look(thread.ident)):
            assert time.monotonic() < deadline, doing
            time.sleep(0.01)
        return doing
    finally:
        over.set()
        thread.join()


def all_reduce(over: threading.Event) -> None:
    over.wait()


# By file and name of the function; the real thing is in tests/integration/test_hang.py.
all_reduce.__code__ = all_reduce.__code__.replace(co_filename="/site-packages/torch/distributed/x.py")


def test_a_thread_outside_of_everything() -> None:
    doing = seen_in(lambda over: over.wait())
    assert (doing.what, doing.waits) == ("is outside of easq-rec", False)
    assert "over.wait()" in doing.stack


def test_a_backward_pass_is_no_wait() -> None:
    """What waits in it for other ranks is in the stack by its own name."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor, over: threading.Event) -> torch.Tensor:
            ctx.over = over
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
            ctx.over.wait()
            return gradient, None

    doing = seen_in(lambda over: Slow.apply(torch.ones(1, requires_grad=True), over).sum().backward())
    assert not doing.waits and doing.what.startswith("is in the backward pass")


def test_a_collective_is_named() -> None:
    doing = seen_in(all_reduce)
    assert (doing.what, doing.waits) == ("waits in all_reduce", True)


def test_a_collective_that_was_started_before_is_named() -> None:
    class Work:
        def __init__(self, over: threading.Event) -> None:
            self.over = over

        def wait(self) -> None:
            self.over.wait()

    doing = seen_in(lambda over: Exchange("all_gather", Work(over)).wait())  # type: ignore[arg-type]
    assert (doing.what, doing.waits) == ("waits in all_gather", True)


def test_who_looks_asks_for_nothing() -> None:
    """What tables have found comes when an attribute of it is read: the thread that looks must not be who reads it."""
    asked = []

    class Lookup(LazyAwaitable[torch.Tensor]):
        def _wait_impl(self) -> torch.Tensor:
            asked.append(threading.get_ident())
            self.over.wait()  # type: ignore[attr-defined]
            return torch.ones(1)

    def read(over: threading.Event) -> object:
        lookup = Lookup()
        lookup.over = over  # type: ignore[attr-defined]
        return lookup.wait()

    doing = seen_in(read)
    assert len(asked) == 1
    assert (doing.what, doing.waits) == ("waits in Lookup", True)


@pytest.mark.parametrize("peers", [True, False])
def test_who_waits_for_a_save_does_what_the_save_does(peers: bool) -> None:
    """A rank whose save waits for its peers is not the one whose disk does not answer."""

    def save(over: threading.Event) -> None:
        checkpoints = Checkpointer.__new__(Checkpointer)
        checkpoints._problem = None
        work = all_reduce if peers else threading.Event.wait
        checkpoints._thread = threading.Thread(target=work, args=(over,), name="checkpoint")
        checkpoints._thread.start()
        checkpoints.wait()

    doing = seen_in(save, lambda doing: there(doing) and doing.what.endswith(", in thread checkpoint"))
    assert doing.waits == peers and doing.what.endswith(", in thread checkpoint")
    assert "thread checkpoint:" in doing.stack and "(wait)" not in doing.what


def test_who_waits_for_a_batch_does_what_its_reader_does() -> None:
    def read(over: threading.Event) -> None:
        def items() -> Iterator[int]:
            over.wait()
            yield 1

        assert list(made_ahead(items(), 2)) == [1]  # type: ignore[arg-type]

    doing = seen_in(read, lambda doing: there(doing) and "in items" in doing.stack)
    assert not doing.waits and doing.what.endswith(", in thread batches_0")
    assert "in items" in doing.stack


def test_the_functions_that_tell_a_phase_exist() -> None:
    """Nothing else would notice that one was renamed."""
    for file, name in {*PHASES, *WORKERS}:
        found: list[ast.stmt] = ast.parse((PACKAGE / file).read_text()).body
        for part in name.split("."):
            (node,) = (one for one in found if getattr(one, "name", None) == part)
            found = node.body  # type: ignore[attr-defined]


def test_nothing_that_was_seen_is_held() -> None:
    """What a frame holds lives as long as the frame does. Python's collector rests while training: a circle would keep
    every tensor that was in use, and ranks would wait without end until a collective lets go of its tensor."""

    class Held:
        pass

    found: list[weakref.ref[Held]] = []

    def hold(over: threading.Event) -> None:
        held = Held()
        found.append(weakref.ref(held))
        over.wait()

    gc.collect()
    gc.disable()
    try:
        seen_in(hold)
        assert found[0]() is None
    finally:
        gc.enable()
