"""Calls that wait at the same time are scored together, within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from easq_rec.export.request import Decoded
from easq_rec.serving.server.batcher import Batcher, LateError, OverloadedError


def call(number: int, candidates: int = 2) -> Decoded:
    return Decoded(columns={"x": np.full(candidates, number)}, requests=1, candidates=candidates)


class Recorded:
    """Returns each call's own numbers, and keeps the sizes of batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, calls: Sequence[Decoded]) -> list[np.ndarray]:
        self.batches.append(len(calls))
        return [one.columns["x"] for one in calls]


def soon() -> float:
    return time.monotonic() + 10


def run(*calls: Decoded, batcher: Batcher, deadline: float | None = None) -> list[Any]:
    async def all_at_once() -> list[Any]:
        waiting = (batcher(one, deadline=soon() if deadline is None else deadline) for one in calls)
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(all_at_once())


def test_calls_of_one_turn_are_one_batch_and_get_their_own_scores() -> None:
    score = Recorded()
    found = run(*(call(number) for number in range(20)), batcher=Batcher(score))
    assert score.batches == [20]
    assert [scores.tolist() for scores in found] == [[number] * 2 for number in range(20)]


def test_a_call_alone_waits_for_no_other() -> None:
    score = Recorded()
    batcher = Batcher(score)

    async def one_after_the_other() -> None:
        for number in range(3):
            assert (await batcher(call(number), deadline=soon())).tolist() == [number] * 2

    asyncio.run(one_after_the_other())
    assert score.batches == [1, 1, 1]


def test_a_batch_has_a_largest_size_that_one_call_may_exceed() -> None:
    score = Recorded()
    found = run(*(call(number, 4) for number in range(5)), call(9, 100), batcher=Batcher(score, most_candidates=8))
    assert score.batches == [2, 2, 1, 1] and len(found[-1]) == 100


def test_more_calls_than_may_wait_are_refused_at_once() -> None:
    score = Recorded()
    found = run(*(call(number) for number in range(5)), batcher=Batcher(score, most_waiting=3))
    assert [isinstance(one, OverloadedError) for one in found] == [False, False, False, True, True]
    assert score.batches == [3]


def test_a_late_call_is_not_scored() -> None:
    score = Recorded()
    (found,) = run(call(1), batcher=Batcher(score), deadline=time.monotonic() - 1)
    assert isinstance(found, LateError) and not score.batches


def test_a_caller_who_leaves_is_not_scored() -> None:
    score = Recorded()
    batcher = Batcher(score)

    async def leaves() -> None:
        tasks = [asyncio.ensure_future(batcher(call(number), deadline=soon())) for number in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert (await tasks[1]).tolist() == [1, 1]

    asyncio.run(leaves())
    assert score.batches in ([1], [2])


def test_an_error_reaches_all_calls_of_its_batch_and_no_other() -> None:
    def fails(calls: Sequence[Decoded]) -> list[np.ndarray]:
        if any(one.columns["x"][0] == 1 for one in calls):
            raise RuntimeError("broken")
        return [one.columns["x"] for one in calls]

    batcher = Batcher(fails)
    found = run(call(0), call(1), batcher=batcher)
    assert all(isinstance(one, RuntimeError) for one in found)
    assert run(call(2), batcher=batcher)[0].tolist() == [2, 2]


def test_batches_are_observed() -> None:
    seen: list[tuple[int, int]] = []
    run(call(0), call(1, 3), batcher=Batcher(Recorded(), observe=lambda calls, n, s: seen.append((calls, n))))
    assert seen == [(2, 5)]
