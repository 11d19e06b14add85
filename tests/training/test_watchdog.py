"""What a watchdog makes of a stack, and of what the ranks have written down."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from easq_rec.training.runtime import Runtime
from easq_rec.training.watchdog import Position, Watchdog, describe, report, watched


def position(rank: int, step: int, doing: str, *, waits: bool = False, age: float = 0.0) -> Position:
    now = time.time()
    where = {"host": "a", "pid": 100 + rank}
    return Position(
        rank=rank, step=step, since=now - 9, seen=now - age, doing=doing, waits=waits, stack="line", **where
    )


IMPORTED = time.time()
WAITING = "waits in all_reduce at training/runtime.py:50 (agree)"


@pytest.mark.parametrize(
    ("positions", "blamed"),
    [
        # One is busy with something else while the others wait for it.
        ([position(0, 5, WAITING, waits=True), position(1, 5, "is at data/reader.py:9 (read)")], "rank 1 hangs"),
        # All wait: who is behind is to blame.
        ([position(0, 5, WAITING, waits=True), position(1, 4, WAITING, waits=True)], "rank 1 hangs"),
        # Nothing tells them apart.
        ([position(0, 5, WAITING, waits=True), position(1, 5, WAITING, waits=True)], "one of ranks 0, 1 hangs"),
        # A process that says nothing is to blame, wherever it was seen.
        (
            [position(0, 5, "is at data/reader.py:9 (read)"), position(1, 5, WAITING, waits=True, age=60)],
            "rank 1 hangs",
        ),
        # One has never been heard of.
        ([position(0, 0, WAITING, waits=True)], "rank 1 hangs"),
    ],
)
def test_who_is_blamed(positions: list[Position], blamed: str) -> None:
    # As old as they say, now.
    passed = time.time() - IMPORTED
    fresh = [dataclasses.replace(one, seen=one.seen + passed, since=one.since + passed) for one in positions]
    told = report(fresh, 2, 8.0, 0.5)
    assert blamed in told.splitlines()[0]
    assert "  rank 0 after step" in told and "\n  rank 1 " in told


def seen_in(blocks: Callable[[threading.Event], object]) -> tuple[str, bool]:
    """What is seen of a thread that runs this until the event is set."""
    begun, over = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        blocks(over)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    time.sleep(0.1)
    try:
        assert thread.ident is not None
        return describe(sys._current_frames()[thread.ident])
    finally:
        over.set()
        thread.join()


def test_a_thread_outside_of_everything() -> None:
    assert seen_in(lambda over: over.wait()) == ("is outside of easq-rec", False)


def test_a_backward_pass_is_no_wait() -> None:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            time.sleep(0.4)
            return gradient

    doing, waits = seen_in(lambda over: Slow.apply(torch.ones(1, requires_grad=True)).sum().backward())
    assert not waits and doing.startswith("is in the backward pass")


def test_a_collective_is_named() -> None:
    """By file and name of the function; the real thing is in tests/integration/test_hang.py."""

    def all_reduce(over: threading.Event) -> None:
        over.wait()

    all_reduce.__code__ = all_reduce.__code__.replace(co_filename="/site-packages/torch/distributed/x.py")
    assert seen_in(all_reduce) == ("waits in all_reduce", True)


def test_one_rank_is_not_watched(tmp_path: Path) -> None:
    runtime = Runtime(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
    with watched(tmp_path, runtime, 0.1) as watchdog:
        assert isinstance(watchdog, Watchdog) and not list(tmp_path.iterdir())
        time.sleep(0.3)
