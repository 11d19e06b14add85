"""Batches with everything that a checkpoint needs to go on after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.reader import Position, RequestReader
from easq_rec.data.replay import AnswerReplay, ReplayState
from easq_rec.features import FeatureSchema


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Position of the stream, of its clock and of the replay buffer: the same on every rank."""

    position: Position = Position()
    clock_ms: int = 0
    """Latest request timestamp seen so far."""
    replay: ReplayState = field(default_factory=lambda: ReplayState(replays=np.zeros(0, np.int32)))

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return {
            "epoch": self.position.epoch,
            "requests": self.position.requests,
            "clock_ms": self.clock_ms,
            "admitted": self.replay.admitted,
            "draws": self.replay.draws,
            "replays": self.replay.replays.tolist(),
        }

    @staticmethod
    def from_dict(values: dict[str, object]) -> LoaderState:
        """The inverse of `to_dict`."""
        number = {name: int(values[name]) for name in ("epoch", "requests", "clock_ms", "admitted", "draws")}  # type: ignore[call-overload]
        return LoaderState(
            position=Position(epoch=number["epoch"], requests=number["requests"]),
            clock_ms=number["clock_ms"],
            replay=ReplayState(
                admitted=number["admitted"],
                draws=number["draws"],
                replays=np.asarray(values["replays"], dtype=np.int32),
            ),
        )


class TrainLoader:
    """Joins the request stream with replayed answers; `replay` is None for runs without alignment."""

    def __init__(self, schema: FeatureSchema, reader: RequestReader, replay: AnswerReplay | None) -> None:
        self._schema = schema
        self._reader = reader
        self._replay = replay

    def start(self) -> LoaderState:
        """The state before the first batch."""
        return LoaderState(replay=self._replay.state) if self._replay is not None else LoaderState()

    def batches(self, state: LoaderState, *, steps: int) -> Iterator[tuple[RequestBatch, LoaderState]]:
        """At most `steps` batches from `state` on, over as many epochs as that takes, each with the state after it."""
        replay = self._replay
        if replay is not None:
            if len(state.replay.replays) != len(replay):
                raise ValueError(
                    f"the checkpoint knows {len(state.replay.replays)} answers, the dataset holds {len(replay)}: "
                    "resume with the data that the run started on, or start a new --run-dir"
                )
            replay.state = state.replay
        clock = state.clock_ms
        if not steps:
            return
        for part in self._reader.read(state.position, epochs=np.iinfo(np.int64).max):
            clock = max(clock, part.last_ms)
            answers = replay.draw(clock) if replay is not None else None
            after = LoaderState(
                position=part.after, clock_ms=clock, replay=replay.state if replay is not None else state.replay
            )
            yield collate(self._schema, part.requests, answers), after
            steps -= 1
            if not steps:
                return
