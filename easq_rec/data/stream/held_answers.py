"""The answers that continuous training holds: those that wait for the clock, and the newest that it may replay.

An answer is admitted once the clock has passed its `answered_at_ms`. The newest `replay.capacity` admitted answers are
kept with their requests; older ones only remain in the running counts. The draws are those of `AnswerReplay`, which
holds all answers of a fixed log: with the same answers both draw the same.

Legend: A answers, O outcomes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from easq_rec.answers.evidence import Expectations
from easq_rec.answers.running_counts import RunningCounts
from easq_rec.config import Config
from easq_rec.data.batch import Answers
from easq_rec.data.columns import Array, Rows
from easq_rec.data.encode import EncodedRequests, outcome_key
from easq_rec.data.replay import ReplayState, draw, form_pairs
from easq_rec.data.stream.columns_file import named_arrays, requests_of

BLOCKS = 32
"""Blocks of requests that are kept before they are joined to one."""
Entries = dict[str, Rows]


def _no_entries() -> Entries:
    return {name: np.zeros(0, np.int64) for name in COLUMNS}


COLUMNS = ("block", "row", "candidate", "answer", "time", "replays")
"""Of each answer: block and row of its request, its candidate within it, its code, when it was given in milliseconds,
and how often it was replayed."""


@dataclass(frozen=True, kw_only=True)
class HeldState:
    """What is held after a step. Never modified, and equal on all ranks."""

    counts: RunningCounts
    admitted: int = 0
    """Answers admitted so far, including those that are no longer kept."""
    steps: int = 0
    """Steps so far: index of the next random numbers."""
    age_ms: float = 0.0
    """Mean age of the last draw's answers, at the stream's clock."""
    blocks: tuple[EncodedRequests, ...] = ()
    kept: Entries = field(default_factory=_no_entries)
    """Admitted answers, oldest first."""
    pending: Entries = field(default_factory=_no_entries)
    """Answers that are not due, in order of arrival."""

    @property
    def replay(self) -> ReplayState:
        """The part that a step's plan and the log read."""
        return ReplayState(
            admitted=self.admitted,
            rarer_class=int(self.counts.answers_2.min()),
            steps=self.steps,
            replays=self.kept["replays"].astype(np.int32),
            age_ms=self.age_ms,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; `arrays` are the others."""
        return {
            "counts": self.counts.to_dict(),
            "admitted": self.admitted,
            "steps": self.steps,
            "age_ms": self.age_ms,
        }

    def arrays(self) -> dict[str, Array]:
        """The answers and their requests, by name."""
        joined = _joined(self)
        arrays: dict[str, Array] = {f"kept.{name}": joined.kept[name] for name in COLUMNS}
        arrays |= {f"pending.{name}": joined.pending[name] for name in COLUMNS}
        if joined.blocks:
            arrays |= {f"requests.{name}": column for name, column in named_arrays(joined.blocks[0]).items()}
        return arrays

    @staticmethod
    def of(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> HeldState:
        """The inverse of `to_dict` and `arrays`."""
        columns = {
            name.removeprefix("requests."): value for name, value in arrays.items() if name.startswith("requests.")
        }
        return HeldState(
            counts=RunningCounts.from_dict(values["counts"]),
            admitted=values["admitted"],
            steps=values["steps"],
            age_ms=values["age_ms"],
            blocks=(requests_of(columns),) if columns else (),
            kept={name: arrays[f"kept.{name}"] for name in COLUMNS},
            pending={name: arrays[f"pending.{name}"] for name in COLUMNS},
        )


@dataclass(frozen=True, kw_only=True)
class AdmittedAnswers:
    """Answers that were admitted before a step."""

    request_id_A: Rows
    item_A: Rows
    time_ms_A: Rows
    """When they were given."""
    satisfied_A: npt.NDArray[np.int8]
    """1: satisfied; 0: dissatisfied; -1: neither."""


class HeldAnswers:
    """Admits, draws and forgets answers.

    Args:
        state: where it continues; None: there are no answers yet.
    """

    def __init__(self, config: Config, *, state: HeldState | None = None, rank: int = 0, world_size: int = 1) -> None:
        self._config = config
        self._outcomes = [outcome.name for outcome in config.schema.outcomes]
        self._expected = Expectations.of(config.schema.outcomes, config.losses.evidence)
        self._rank = rank
        self._world_size = world_size
        self.state = state or HeldState(counts=RunningCounts(outcomes=len(self._outcomes), by_pattern={}))
        self.answers_differ = False
        """Whether the answers that all ranks drew last form a pair."""

    def arrive(self, requests: EncodedRequests) -> None:
        """Takes over answered requests, with candidate columns `answer` and `answered_at_ms`."""
        state, candidates = self.state, requests.candidates
        entries = np.flatnonzero(np.isin(candidates.column("answer"), self._config.ranked_answers))
        if not len(entries):
            return
        row = candidates.owners[entries]
        fresh = {
            "block": np.full(len(entries), len(state.blocks)),
            "row": row,
            "candidate": entries - candidates.offsets[row],
            "answer": candidates.column("answer")[entries].astype(np.int64),
            "time": candidates.column("answered_at_ms")[entries].astype(np.int64),
            "replays": np.zeros(len(entries), np.int64),
        }
        if not self._config.losses.slates:
            requests = requests.keep_candidates(entries)
            fresh["candidate"] = np.arange(len(entries)) - requests.candidates.offsets[row]
        pending = {name: np.concatenate([state.pending[name], fresh[name]]) for name in COLUMNS}
        self.state = dataclasses.replace(state, blocks=(*state.blocks, requests), pending=pending)
        if len(self.state.blocks) > BLOCKS:
            self.state = _joined(self.state)

    def admit(self, clock_ms: int) -> AdmittedAnswers | None:
        """Admits the answers that are due, in order of time, and returns them; None: there are none."""
        state = self.state
        due = np.flatnonzero(state.pending["time"] <= clock_ms)
        if not len(due):
            return None
        due = due[np.argsort(state.pending["time"][due], kind="stable")]
        fresh = {name: column[due] for name, column in state.pending.items()}
        counts = state.counts.added(fresh["answer"], self._happened(fresh), self._config.schema.answers)
        kept = {
            name: np.concatenate([state.kept[name], fresh[name]])[-self._config.replay.capacity :] for name in COLUMNS
        }
        self.state = dataclasses.replace(
            state,
            counts=counts,
            admitted=state.admitted + len(due),
            kept=kept,
            pending={name: np.delete(column, due) for name, column in state.pending.items()},
        )
        return self._described(fresh)

    def _described(self, entries: Entries) -> AdmittedAnswers:
        """Requests and items of answers."""
        request_id_A, item_A = np.zeros((2, len(entries["row"])), np.int64)
        for number in np.unique(entries["block"]):
            mine = np.flatnonzero(entries["block"] == number)
            requests, row = self.state.blocks[number], entries["row"][mine]
            at = requests.candidates.offsets[row] + entries["candidate"][mine]
            request_id_A[mine] = requests.scalars["request_id"][row]
            item_A[mine] = requests.candidates.column(self._config.schema.item)[at]
        scale = self._config.schema.answers
        satisfied_A = np.full(len(item_A), -1, np.int8)
        satisfied_A[np.isin(entries["answer"], scale.dissatisfied_codes)] = 0
        satisfied_A[np.isin(entries["answer"], scale.satisfied_codes)] = 1
        return AdmittedAnswers(
            request_id_A=request_id_A, item_A=item_A, time_ms_A=entries["time"], satisfied_A=satisfied_A
        )

    def _happened(self, entries: Entries) -> npt.NDArray[np.bool_]:
        """Whether the candidate of each answer had each outcome, (A, O)."""
        happened_AO = np.zeros((len(entries["row"]), len(self._outcomes)), np.bool_)
        for number in np.unique(entries["block"]):
            mine = np.flatnonzero(entries["block"] == number)
            candidates = self.state.blocks[number].candidates
            at = candidates.offsets[entries["row"][mine]] + entries["candidate"][mine]
            for place, name in enumerate(self._outcomes):
                # NaN (an unknown outcome) is not above 0.
                happened_AO[mine, place] = candidates.column(outcome_key(name))[at] > 0
        return happened_AO

    def draw(self, clock_ms: int) -> Answers | None:
        """Draws this rank's share of the step's answers.

        None: no answer is held, this rank has no share, or the answers have been replayed often enough.
        """
        state, config = self.state, self._config
        kept = state.kept
        drawn = draw(
            np.arange(len(kept["row"])),
            kept["replays"].astype(np.int32),
            kept["answer"],
            _request_number(kept),
            config.replay,
            seed=config.trainer.seed,
            step=state.steps,
            world_size=self._world_size,
        )
        self.answers_differ = form_pairs(kept["answer"][drawn])
        replays = kept["replays"].copy()
        replays[drawn] += 1
        count = len(drawn)
        self.state = dataclasses.replace(
            state,
            steps=state.steps + 1,
            age_ms=float(clock_ms - kept["time"][drawn].mean()) if count else 0.0,
            kept={**kept, "replays": replays},
        )
        mine = drawn[count * self._rank // self._world_size : count * (self._rank + 1) // self._world_size]
        return self._gather(mine) if len(mine) else None

    def skip(self) -> None:
        """A step without a draw."""
        self.answers_differ = False
        self.state = dataclasses.replace(self.state, steps=self.state.steps + 1)

    def evidence(self) -> npt.NDArray[np.float32]:
        """Weights of evidence, (O,): by hand, or from all answers admitted so far."""
        evidence = self._config.losses.evidence
        if evidence.weights is not None:
            return np.array([evidence.weights.get(name, 0.0) for name in self._outcomes], dtype=np.float32)
        return self.state.counts.evidence(caution=evidence.caution, expected=self._expected)

    def reward(self) -> npt.NDArray[np.float32] | None:
        """Weights of the outcomes in the reward, (O,); None: no reward is fitted."""
        losses = self._config.losses
        return self.state.counts.reward(losses.reward.ridge) if losses.rewards else None

    def _gather(self, drawn: Rows) -> Answers:
        kept = {name: column[drawn] for name, column in self.state.kept.items()}
        _, first, request_A = np.unique(_request_number(kept), return_index=True, return_inverse=True)
        block, row = kept["block"][first], kept["row"][first]
        parts = [self.state.blocks[number].take(row[block == number]) for number in np.unique(block)]
        return Answers(
            requests=EncodedRequests.concat(parts),
            request_A=request_A,
            candidate_A=kept["candidate"],
            answer_A=kept["answer"].astype(np.int8),
        )


def _request_number(entries: Entries) -> Rows:
    """A number of each answer's request that ascends with block and row."""
    return (entries["block"] << 32) + entries["row"]


def _joined(state: HeldState) -> HeldState:
    """The same answers in one block, without requests that no answer needs any more."""
    numbers = np.unique(np.concatenate([_request_number(state.kept), _request_number(state.pending)]))
    if not len(numbers):
        return dataclasses.replace(state, blocks=())
    block, row = numbers >> 32, numbers & 0xFFFFFFFF
    parts = [state.blocks[number].take(row[block == number]) for number in np.unique(block)]

    def moved(entries: Entries) -> Entries:
        place = np.searchsorted(numbers, _request_number(entries))
        return {**entries, "block": np.zeros_like(place), "row": place}

    return dataclasses.replace(
        state, blocks=(EncodedRequests.concat(parts),), kept=moved(state.kept), pending=moved(state.pending)
    )


def unsupported(config: Config) -> Sequence[str]:
    """Options that need all answers or all requests beforehand, so that continuous training refuses them."""
    found = []
    if config.replay.shuffled != "no":
        found.append(f"replay.shuffled={config.replay.shuffled!r} permutes all answers")
    if config.losses.weighs_answers:
        found.append("weights of answers by propensity are fitted to all requests")
    return found
