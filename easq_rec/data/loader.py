"""Training batches, each with the state from which a checkpoint continues after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from easq_rec.config.schema import FeatureSchema
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.feature_dropout import FeatureDropout
from easq_rec.data.order import RequestReader, Slice
from easq_rec.data.position import StreamPosition
from easq_rec.data.prefetch import prefetched
from easq_rec.data.replay import AnswerReplay, ReplayState
from easq_rec.data.row_assignment import RowAssigner
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """Position of the stream, its clock and the state of the replay buffer; equal on all ranks."""

    position: StreamPosition = field(default_factory=StreamPosition)
    data: str = ""
    """Fingerprint of the dataset of the position."""
    answers: str = ""
    """Fingerprint of the answers of `replay`; empty without alignment."""
    clock_ms: int = 0
    """The stream's clock: answers that arrived by this time are due."""
    replay: ReplayState = field(default_factory=lambda: ReplayState(replays=np.zeros(0, np.int32)))

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        return {
            "position": self.position.to_dict(),
            "data": self.data,
            "answers": self.answers,
            "clock_ms": self.clock_ms,
            "admitted": self.replay.admitted,
            "rarer_class": self.replay.rarer_class,
            "steps": self.replay.steps,
            "replays": self.replay.replays.tolist(),
            "age_ms": self.replay.age_ms,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> LoaderState:
        """The inverse of `to_dict`."""
        return LoaderState(
            position=StreamPosition.from_dict(values["position"]),
            data=values["data"],
            answers=values["answers"],
            clock_ms=values["clock_ms"],
            replay=ReplayState(
                admitted=values["admitted"],
                rarer_class=values["rarer_class"],
                steps=values["steps"],
                replays=np.asarray(values["replays"], dtype=np.int32),
                age_ms=values["age_ms"],
            ),
        )


class TrainLoader:
    """Joins the request stream with replayed answers.

    Args:
        replay: None for runs without alignment.
        align_every: interval between steps whose batches are `aligned`.
        draws: add replayed answers to aligned batches; False: answers only set the weights of evidence.
        prefetch: number of batches prepared in the background.
        by_user: losses compare the candidates of a user; False: those of a request.
        dropout: leaves features of the stream's requests out; None: all stay.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        reader: RequestReader,
        replay: AnswerReplay | None,
        *,
        align_every: int = 1,
        draws: bool = True,
        prefetch: int = 0,
        by_user: bool = False,
        dropout: FeatureDropout | None = None,
    ) -> None:
        self._schema = schema
        self._reader = reader
        self._replay = replay
        self._align_every = align_every
        self._draws = draws
        self._prefetch = prefetch
        self._by_user = by_user
        self._dropout = dropout

    def start(self) -> LoaderState:
        """The state before the first batch."""
        data = self._reader.fingerprint
        if self._replay is None:
            return LoaderState(data=data)
        return LoaderState(data=data, answers=self._replay.fingerprint, replay=self._replay.state)

    def continued_from(self, before: TrainLoader, state: LoaderState) -> LoaderState:
        """The state before the first batch, for a model trained up to `state` of another loader: the clock and the
        admitted answers carry over.

        Raises:
            UserError: the answers that the other loader admitted are not among this loader's answers.
        """
        start = dataclasses.replace(self.start(), clock_ms=state.clock_ms)
        if self._replay is None or before._replay is None:
            return start
        return dataclasses.replace(start, replay=self._replay.continued_from(before._replay, state.replay))

    def batches(
        self, state: LoaderState, *, steps: int, assign: RowAssigner | None = None
    ) -> Generator[tuple[RequestBatch, LoaderState], None, None]:
        """At most `steps` batches from `state` on, over any number of epochs, each with the state after it.

        Args:
            assign: gives rows of admitted tables to ids; None: there are no such tables.

        Raises:
            UserError: the requests or answers differ from those with which the state was written.
        """
        self._check(state)
        assign = assign or RowAssigner(self._schema, dict)
        assign.restart()
        # All ranks take part in assigning rows.
        return prefetched(self._make(state, steps, assign), self._prefetch, finish=assign.needed)

    def _check(self, state: LoaderState) -> None:
        replay, data = self._replay, self._reader.fingerprint
        if state.data != data:
            raise UserError(
                "the training requests differ from those of the checkpoint: files, row groups or the training period "
                "changed; resume with the data that the run started on, or start a new --run-dir"
            )
        if replay is not None and state.answers != replay.fingerprint:
            raise UserError(
                f"the answers differ from those of the checkpoint ({len(state.replay.replays)} then, {len(replay)} now)"
                ": resume with the data that the run started on, or start a new --run-dir"
            )

    def _make(
        self, state: LoaderState, steps: int, assign: RowAssigner
    ) -> Generator[tuple[RequestBatch, LoaderState], None, None]:
        replay, clock = self._replay, state.clock_ms
        if replay is not None:
            replay.state = state.replay
        if not steps:
            return
        for part in self._reader.read(state.position, epochs=np.iinfo(np.int64).max):
            clock = max(clock, part.clock_ms)
            # Logged steps are aligned if one interval divides the other.
            aligned = replay is not None and (replay.state.steps + 1) % self._align_every == 0
            answers = None
            if replay is not None:
                if aligned and self._draws:
                    answers = replay.draw(clock)
                else:
                    replay.skip(clock)
            after = LoaderState(
                position=part.after,
                data=state.data,
                answers=state.answers,
                clock_ms=clock,
                replay=replay.state if replay is not None else state.replay,
            )
            yield self._collate(part, answers, aligned, assign), after
            steps -= 1
            if not steps:
                return

    def _collate(self, part: Slice, answers: Answers | None, aligned: bool, assign: RowAssigner) -> RequestBatch:
        requests, answers, changes = assign(part.requests, answers)
        batch = collate(
            self._schema,
            requests,
            answers,
            evidence_O=self._replay.evidence() if self._replay is not None and aligned else None,
            reward_O=self._replay.reward() if self._replay is not None and aligned else None,
            aligned=aligned,
            answers_differ=self._replay is not None and self._replay.answers_differ,
            by_user=self._by_user,
            scales=self._dropout(part.requests, part.after.epoch) if self._dropout is not None else None,
        )
        return dataclasses.replace(batch, id_changes=changes)
