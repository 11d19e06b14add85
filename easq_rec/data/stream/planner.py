"""Plans the steps of continuous training. Only rank 0 has a planner; the other ranks get its plans.

A plan names the rows of a step by partition, offset and row. Every rank reads its share of them by itself. So what a
step trains on is decided in one place, and a checkpoint that stores the positions after a step is exact for any number
of ranks.
"""

from __future__ import annotations

import dataclasses
import json
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from easq_rec import json_file
from easq_rec.config.follow import Follow
from easq_rec.data.stream.merge import ChunkRows, StreamState, TimeMerge
from easq_rec.data.stream.source import StreamSource, end_of
from easq_rec.data.stream.state import FollowState, Journal, entries_of, journal_of

ChunkId = tuple[str, int]
"""(partition, offset)."""
ANSWERS_PER_STEP = 4_096
"""Chunks of answers after which no more are polled in a step."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A step, or a pause."""

    parts: tuple[ChunkRows, ...] = ()
    """The rows of the step, over all ranks; none: a pause."""
    arrived: tuple[ChunkId, ...] = ()
    """Chunks of answers that arrived before the step."""
    requests: StreamState = field(default_factory=StreamState)
    answers: StreamState = field(default_factory=StreamState)
    """How far both streams are read after the step."""
    clock_ms: int = 0
    request_files: Journal = ()
    answer_files: Journal = ()
    """Files that were discovered since the last plan."""
    save: bool = False
    """A checkpoint is due after the step."""
    publish: bool = False
    """A package is due after the step."""
    ended: bool = False
    """Nothing has arrived for so long that the run ends."""

    def to_text(self) -> str:
        """For other ranks, as JSON."""
        return json_file.text(
            {
                "parts": [[part.partition, part.offset, part.begin, part.end] for part in self.parts],
                "arrived": [list(chunk) for chunk in self.arrived],
                "requests": self.requests.to_dict(),
                "answers": self.answers.to_dict(),
                "clock_ms": self.clock_ms,
                "request_files": entries_of(self.request_files),
                "answer_files": entries_of(self.answer_files),
                "save": self.save,
                "publish": self.publish,
                "ended": self.ended,
            }
        )

    @staticmethod
    def of_text(text: str) -> Plan:
        """The inverse of `to_text`."""
        values = json.loads(text)
        return Plan(
            parts=tuple(
                ChunkRows(partition=partition, offset=offset, begin=begin, end=end)
                for partition, offset, begin, end in values["parts"]
            ),
            arrived=tuple((partition, offset) for partition, offset in values["arrived"]),
            requests=StreamState.from_dict(values["requests"]),
            answers=StreamState.from_dict(values["answers"]),
            clock_ms=values["clock_ms"],
            request_files=journal_of(values["request_files"]),
            answer_files=journal_of(values["answer_files"]),
            save=values["save"],
            publish=values["publish"],
            ended=values["ended"],
        )


class Planner:
    """Polls both streams, and cuts steps from them.

    Args:
        answers: None: the run reads no answers.
        state: where the run continues.
        rows: of a step, over all ranks.
        now: a clock in seconds.
    """

    def __init__(
        self,
        requests: StreamSource,
        answers: StreamSource | None,
        state: FollowState,
        config: Follow,
        *,
        rows: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._answers = requests, answers
        self._config = config
        self._rows = rows
        self._now = now
        requests.seek(state.requests.offsets(), state.request_files)
        if answers is not None:
            answers.seek(state.answers.offsets(), state.answer_files)
        self._merge = TimeMerge(
            state.requests,
            disorder_ms=config.disorder_ms,
            idle_s=config.idle_seconds,
            clock_ms=state.clock_ms,
            since_ms=config.since_ms,
            now=now,
        )
        self._state = state.requests
        self._answers_read = state.answers
        self._clock_ms = state.clock_ms
        self._told = {"requests": end_of(state.request_files), "answers": end_of(state.answer_files)}
        self._arrived_at = self._saved_at = self._published_at = now()
        self._waiting_since = now()
        """When the oldest requests began to wait for a step."""
        self._unsaved = self._unpublished = False
        """Whether a step was planned since a checkpoint, or a package, was due."""

    def next_plan(self, patience_s: float) -> Plan:
        """The next step; a pause if none is due within so many seconds."""
        until = self._now() + patience_s
        while not self._is_due():
            left = until - self._now()
            if left <= 0:
                return self._finished(Plan(clock_ms=self._clock_ms, requests=self._state, answers=self._answers_read))
            time.sleep(min(left, self._config.poll_seconds))
        arrived = self._poll_answers()
        parts, self._state, self._clock_ms = self._merge.take(self._rows)
        self._waiting_since = self._now()
        return self._finished(
            Plan(
                parts=tuple(parts),
                arrived=tuple(arrived),
                requests=self._state,
                answers=self._answers_read,
                clock_ms=self._clock_ms,
            )
        )

    def _is_due(self) -> bool:
        """Whether a step is full, or its requests have waited long enough."""
        self._poll_requests()
        if self._merge.rows >= self._rows:
            return True
        if not self._merge.rows:
            self._waiting_since = self._now()
            return False
        return self._now() - self._waiting_since >= self._config.wait_seconds

    def _poll_requests(self) -> None:
        """Polls until a step is full, or nothing more has arrived.

        Requests that wait for another partition set no limit: to stop polling would also stop that partition. A source
        limits each partition by itself.
        """
        while self._merge.rows < self._rows:
            chunks = self._requests.poll()
            self._merge.add(chunks, self._requests.partitions)
            if not chunks:
                return
            self._arrived_at = self._now()

    def _poll_answers(self) -> list[ChunkId]:
        """All answers that have arrived: each must be known before the clock passes its time."""
        found: list[ChunkId] = []
        positions = dict(self._answers_read.positions)
        while self._answers is not None and len(found) < ANSWERS_PER_STEP and (chunks := self._answers.poll()):
            self._arrived_at = self._now()
            for chunk in chunks:
                found.append((chunk.partition, chunk.offset))
                positions[chunk.partition] = (chunk.offset + 1, 0)
        if found:
            self._answers_read = StreamState(positions=positions)
        return found

    def _finished(self, plan: Plan) -> Plan:
        """The plan with the files that other ranks do not know yet, and with what is due."""
        now, config = self._now(), self._config
        self._unsaved, self._unpublished = self._unsaved or bool(plan.parts), self._unpublished or bool(plan.parts)
        since_save, since_package = (now - before for before in (self._saved_at, self._published_at))
        publish = config.packages is not None and self._unpublished and since_package >= 60 * config.publish_minutes
        every_s = 60 * config.checkpoint_minutes
        save = publish or (every_s > 0 and self._unsaved and since_save >= every_s)
        if publish:
            self._published_at, self._unpublished = now, False
        if save:
            self._saved_at, self._unsaved = now, False
        limit, left = config.stop_when_idle_seconds, self._merge.rows + self._merge.waiting
        return dataclasses.replace(
            plan,
            request_files=self._untold("requests", self._requests),
            answer_files=self._untold("answers", self._answers) if self._answers is not None else (),
            save=save,
            publish=publish,
            ended=not (plan.parts or left) and limit is not None and now - self._arrived_at >= limit,
        )

    def _untold(self, stream: str, source: StreamSource) -> Journal:
        """Files that no plan has named yet."""
        fresh = source.journal[bisect_left(source.journal, self._told[stream], key=lambda entry: entry.first) :]
        self._told[stream] = max(self._told[stream], end_of(fresh))
        return fresh
