"""Batches of continuous training, each with the state from which a checkpoint continues after it.

Rank 0 plans, all ranks get the plan, and each reads its share of the rows, decodes and encodes it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from easq_rec.config import Config
from easq_rec.data.batch import Answers, RequestBatch, collate
from easq_rec.data.columns import RequestColumns, Rows
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.feature_dropout import FeatureDropout
from easq_rec.data.layout import Layout
from easq_rec.data.position import share
from easq_rec.data.prefetch import prefetched
from easq_rec.data.row_assignment import RowAssigner
from easq_rec.data.stream.held_answers import AdmittedAnswers, HeldAnswers
from easq_rec.data.stream.merge import ChunkRows
from easq_rec.data.stream.planner import Plan, Planner
from easq_rec.data.stream.source import StreamSource
from easq_rec.data.stream.state import FollowState

ENCODED = 8
"""Chunks that are kept encoded: consecutive steps read the same ones."""
PATIENCE_S = 1.0
"""Longest wait for a step, in seconds. Then training checks whether it must stop, save or publish."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What belongs to a batch."""

    state: FollowState
    """After the batch."""
    admitted: AdmittedAnswers | None
    """Answers that were admitted before the batch."""
    save: bool
    """A checkpoint is due after its step."""
    publish: bool
    """A package is due after its step."""


Batches = Generator[tuple[RequestBatch, Followed], None, None]


class PlanExchange(Protocol):
    """Sends rank 0's plan to all ranks. All ranks call it equally often."""

    def __call__(self, plan: Plan | None) -> Plan:
        """Returns rank 0's plan on every rank.

        Args:
            plan: None on other ranks than rank 0.
        """


class FollowLoader:
    """Batches from streams.

    Args:
        requests, answers: this rank's sources; `answers` is None if the run reads none.
        exchange: sends plans from rank 0 to the others.
        planner: on rank 0; None on other ranks.
    """

    def __init__(
        self,
        config: Config,
        requests: StreamSource,
        answers: StreamSource | None,
        state: FollowState,
        exchange: PlanExchange,
        planner: Planner | None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._config = config
        self._requests, self._answers = requests, answers
        self._exchange = exchange
        self._planner = planner
        self._rank, self._world_size = rank, world_size
        self._layout = Layout.of(config.schema)
        self._answer_layout = Layout.of(config.schema, answers=True)
        self._dropout = FeatureDropout.of(config.schema, rate=config.model.feature_dropout, seed=config.trainer.seed)
        self._encoded: OrderedDict[tuple[str, int], tuple[EncodedRequests, Rows]] = OrderedDict()
        self._held = HeldAnswers(config, state=state.held, rank=rank, world_size=world_size)
        self._state = state
        self._first: Plan | None = None
        self._begun = False
        self.pause = Plan()
        """The plan that ended the last call of `batches`: it says what is due."""
        self.recent: RequestColumns | None = None
        """Valid requests that this rank read last."""
        if planner is None:
            requests.seek({}, state.request_files)
            if answers is not None:
                answers.seek({}, state.answer_files)

    def first_requests(self) -> EncodedRequests | None:
        """All requests of the first step, on every rank, which stay to be trained on; None: none have come yet."""
        plan = self._next_plan()
        if not plan.parts:
            self.pause = plan
            return None
        self._first = plan
        return EncodedRequests.concat(
            [self._rows(part.partition, part.offset, part.begin, part.end) for part in plan.parts]
        )

    def batches(self, assign: RowAssigner | None = None) -> Batches:
        """Batches until no step is due for a while. Called again, it goes on; all ranks call it alike.

        Closing it waits for the batches that a thread prepares: another rank may be waiting for their plans. They are
        dropped, so a loader that was closed early cannot go on.

        Args:
            assign: gives rows of admitted tables to ids; None: there are no such tables.
        """
        assign = assign or RowAssigner(self._config.schema, dict)
        if not self._begun:
            # Later, all batches have been trained on, so the maps are those of the model; copying them costs time.
            assign.restart()
            self._begun = True
        return prefetched(self._make(assign), self._config.data.prefetch, finish=True)

    def close(self) -> None:
        """Ends the threads and connections of the sources."""
        self._requests.close()
        if self._answers is not None:
            self._answers.close()

    def _make(self, assign: RowAssigner) -> Batches:
        while True:
            plan, self._first = self._first or self._next_plan(), None
            if not plan.parts:
                self.pause = plan
                return
            batch, state, admitted = self._step(plan, assign)
            yield batch, Followed(state=state, admitted=admitted, save=plan.save, publish=plan.publish)

    def _next_plan(self) -> Plan:
        plan = self._exchange(self._planner.next_plan(PATIENCE_S) if self._planner is not None else None)
        if self._planner is None:
            self._requests.extend(plan.request_files)
            if self._answers is not None:
                self._answers.extend(plan.answer_files)
        return plan

    def _step(self, plan: Plan, assign: RowAssigner) -> tuple[RequestBatch, FollowState, AdmittedAnswers | None]:
        config, held = self._config, self._held
        if self._answers is not None:
            for partition, offset in plan.arrived:
                held.arrive(encode(self._answer_layout, self._answers.read(partition, offset)[0]))
            self._answers.release(plan.answers.offsets())
        admitted = held.admit(plan.clock_ms)
        # Logged steps are aligned if one interval divides the other.
        aligned = config.aligned and (held.state.steps + 1) % config.losses.align_every == 0
        answers: Answers | None = None
        if aligned and config.losses.replays_answers:
            answers = held.draw(plan.clock_ms)
        else:
            held.skip()
        rows = sum(part.end - part.begin for part in plan.parts)
        self._state = FollowState(
            requests=plan.requests,
            answers=plan.answers,
            request_files=self._requests.journal,
            answer_files=self._answers.journal if self._answers is not None else (),
            clock_ms=plan.clock_ms,
            held=held.state,
            rows=self._state.rows + rows,
        )
        requests = self._share(plan.parts, rows)
        self._requests.release(plan.requests.offsets())
        encoded, answers, changes = assign(requests, answers)
        batch = collate(
            config.schema,
            encoded,
            answers,
            evidence_O=held.evidence() if aligned else None,
            reward_O=held.reward() if aligned else None,
            aligned=aligned,
            answers_differ=held.answers_differ,
            by_user=config.losses.groups == "user",
            scales=self._dropout(requests, 0) if self._dropout is not None else None,
        )
        return dataclasses.replace(batch, id_changes=changes), self._state, admitted

    def _share(self, parts: tuple[ChunkRows, ...], rows: int) -> EncodedRequests:
        """This rank's requests of a step."""
        first, last = share(rows, self._rank, self._world_size)
        found, begin = [], 0
        for part in parts:
            size = part.end - part.begin
            low, high = max(first - begin, 0), min(last - begin, size)
            if low < high:
                found.append(self._rows(part.partition, part.offset, part.begin + low, part.begin + high))
            begin += size
        return EncodedRequests.concat(found) if found else self._rows(parts[0].partition, parts[0].offset, 0, 0)

    def _rows(self, partition: str, offset: int, begin: int, end: int) -> EncodedRequests:
        """The valid ones of some rows of a chunk."""
        key = (partition, offset)
        if key not in self._encoded:
            columns, placed = self._requests.read(partition, offset)
            self.recent = columns if len(columns) else self.recent
            # Offsets of the rows among the valid ones: a row in quarantine has length 0.
            places = np.concatenate([[0], np.cumsum(placed >= 0)])
            self._encoded[key] = (encode(self._layout, columns), places)
            while len(self._encoded) > ENCODED:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        requests, places = self._encoded[key]
        return requests.slice(int(places[begin]), int(places[end]))


def start_state(config: Config) -> FollowState:
    """The state before the first batch."""
    return FollowState(held=HeldAnswers(config).state)
