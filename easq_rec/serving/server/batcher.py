"""Scores together what waits at the same time, and waits for nothing.

A call that arrives joins a list. The list is scored in the next turn of the event loop, so it holds what the sockets
had ready in this turn: one call on an idle server, many on a busy one. A pause, to gather more, would add to every
answer. Scoring takes about a millisecond and runs in the loop itself: a thread would cost as much as a small batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from easq_rec.export.request import Decoded

Score = Callable[[Sequence[Decoded]], list[NDArray[Any]]]
"""Scores of each call's candidates."""


class OverloadedError(Exception):
    """As many calls wait as may."""


class LateError(Exception):
    """A call waited beyond its deadline, and was not scored."""


@dataclass(kw_only=True)
class WaitingCall:
    """A call that waits."""

    call: Decoded
    deadline: float
    """On the monotonic clock."""
    future: asyncio.Future[NDArray[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """
    Args:
        score: scores some calls.
        most_waiting: calls that wait at most.
        most_candidates: candidates that are scored together at most, beyond those of one call.
        observe: is told the calls and the candidates of each batch, and its seconds.
    """

    def __init__(
        self,
        score: Score,
        *,
        most_waiting: int = 1_000,
        most_candidates: int = 5_000,
        observe: Callable[[int, int, float], None] = lambda calls, candidates, seconds: None,
    ) -> None:
        self.score = score
        self._most_waiting = most_waiting
        self._most_candidates = most_candidates
        self._observe = observe
        self._waiting: list[WaitingCall] = []

    async def __call__(self, call: Decoded, *, deadline: float) -> NDArray[Any]:
        """Scores of a call's candidates.

        Args:
            deadline: on the monotonic clock.

        Raises:
            OverloadedError, LateError; and what `score` raises.
        """
        if len(self._waiting) >= self._most_waiting:
            raise OverloadedError
        one = WaitingCall(call=call, deadline=deadline)
        self._waiting.append(one)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._run)
        return await one.future

    def _run(self) -> None:
        """Scores one batch of what waits; the rest follows in the next turn, so that answers are sent between."""
        now, batch, candidates = time.monotonic(), list[WaitingCall](), 0
        while self._waiting:
            one = self._waiting[0]
            if batch and candidates + one.call.candidates > self._most_candidates:
                break
            self._waiting.pop(0)
            if one.future.done():
                # The caller has gone.
                continue
            if one.deadline < now:
                one.future.set_exception(LateError())
                continue
            batch.append(one)
            candidates += one.call.candidates
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        if not batch:
            return
        try:
            found = self.score([one.call for one in batch])
        except Exception as error:
            for one in batch:
                one.future.set_exception(error)
            return
        self._observe(len(batch), candidates, time.monotonic() - now)
        for one, scores in zip(batch, found, strict=True):
            one.future.set_result(scores)
