"""Answer replay: adds recent answers to the batches of aligned steps.

With one answer per ten thousand impressions most batches would have no pair of answers. The buffer admits an answer
once the stream's clock has passed its `answered_at_ms`. All ranks compute the same draw, and each takes a share. The
buffer's content follows from its small state and the answers dataset, so a checkpoint stores only the state.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.answers.class_counts import ClassCounts
from easq_rec.answers.evidence import AnswerEvidence, Expectations
from easq_rec.answers.propensity import Propensities
from easq_rec.answers.reward import RewardModel
from easq_rec.config import Replay
from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.data.batch import Answers
from easq_rec.data.columns import Rows
from easq_rec.data.encode import EncodedRequests, outcome_key
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReplayState:
    """The buffer's state in a checkpoint."""

    admitted: int = 0
    """Number of answers admitted so far, in time order."""
    rarer_class: int = 0
    """Number of satisfied, or of dissatisfied, answers among them, whichever are fewer."""
    steps: int = 0
    """Steps so far, with or without a draw: index of the next random state."""
    replays: npt.NDArray[np.int32]
    """Number of times that each answer was replayed."""
    age_ms: float = 0.0
    """Mean age of the last draw's answers, at the stream's clock."""

    def statistics(self) -> dict[str, float]:
        """For the log: number of admitted answers, how often they were replayed, and the age of the last draw."""
        replays = self.replays[: self.admitted]
        return {
            "replay_admitted": float(self.admitted),
            "replay_rarer_class": float(self.rarer_class),
            "replay_mean": float(replays.mean()) if self.admitted else 0.0,
            "replay_max": float(replays.max(initial=0)),
            "replay_age_hours": self.age_ms / 3.6e6,
        }


class AnswerReplay:
    """Draws answers with their requests.

    Args:
        requests: the answers dataset, with candidate columns `answer` and `answered_at_ms`; None: no answers.
        until_ms: answers that arrive at this time or later are ignored (they belong to the held-out period).
        ranked: answer codes that form pairs; other answers are not drawn.
        scale: meaning of the answer codes, for `evidence` and `ReplayState.rarer_class`.
        slates: keep all candidates of answered requests; False: only candidates with an answer that training may see,
            which saves the lookups of the others.
        outcomes: names of the outcomes that `evidence`, `reward` and `propensities` read.
        caution: number of standard errors by which a weight must differ from zero to be used.
        expected: priors of the weights of evidence; None: no outcome has one.
        weights: weights of evidence by hand, by outcome; None: estimated from the answers.
        ridge: penalty of the regression that fits `reward`; None: no reward is fitted.
        propensities: give drawn answers their weights; None: they have none.
    """

    def __init__(
        self,
        requests: EncodedRequests | None,
        config: Replay,
        *,
        until_ms: int,
        ranked: tuple[int, ...],
        scale: AnswerScale = THREE_ANSWERS,
        slates: bool,
        seed: int,
        outcomes: Sequence[str] = (),
        caution: float = 1.0,
        expected: Expectations | None = None,
        weights: Mapping[str, float] | None = None,
        ridge: float | None = None,
        propensities: Propensities | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._config = config
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._requests = requests
        empty = np.zeros(0, np.int64)
        self._request, self._candidate, self._answer, self._time = empty, empty, empty, empty
        self._weighing_answer = empty
        if requests is not None:
            self._index(requests, until_ms, ranked, slates)
        self._classes = ClassCounts(self._answer, scale)
        happened_AO = self._happened(outcomes)
        self._evidence = AnswerEvidence(
            self._weighing_answer, happened_AO, scale=scale, caution=caution, expected=expected
        )
        self._reward: RewardModel | None = None
        if ridge is not None:
            self._reward = RewardModel(self._weighing_answer, happened_AO, scale=scale, ridge=ridge)
        self._weight = propensities.weights(happened_AO) if propensities is not None else None
        self._by_hand: npt.NDArray[np.float32] | None = None
        if weights is not None:
            self._by_hand = np.array([weights.get(name, 0.0) for name in outcomes], dtype=np.float32)
        self.fingerprint = self._fingerprint()
        """Depends on the answers that training may see."""
        self.state = ReplayState(replays=np.zeros(len(self), np.int32))
        self.answers_differ = False
        """Whether the answers that all ranks drew last form a pair."""

    def __len__(self) -> int:
        """Number of answers that training may see."""
        return len(self._request)

    def _index(self, requests: EncodedRequests, until_ms: int, ranked: tuple[int, ...], slates: bool) -> None:
        """Makes one entry per usable answer, in order of arrival."""
        candidates = requests.candidates
        answer, time = candidates.column("answer"), candidates.column("answered_at_ms")
        owner = candidates.owners
        entries = np.flatnonzero(np.isin(answer, ranked) & (time < until_ms))
        request = owner[entries]
        if slates:
            candidate = entries - candidates.offsets[request]
        else:
            self._requests = requests.keep_candidates(entries)
            candidate = np.arange(len(entries)) - self._requests.candidates.offsets[request]
        order = np.argsort(time[entries], kind="stable")
        self._request, self._candidate = request[order], candidate[order]
        self._answer, self._time = answer[entries[order]], time[entries[order]]
        # The weights of evidence and the rewards are estimated from these answers.
        self._weighing_answer = self._answer
        if self._config.shuffled != "no":
            self._answer = np.random.default_rng([self._seed, 4]).permutation(self._answer)
        if self._config.shuffled == "all":
            self._weighing_answer = self._answer

    def _happened(self, outcomes: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether the candidate of each answer had each outcome, (A, O)."""
        if self._requests is None:
            return np.zeros((0, len(outcomes)), dtype=np.bool_)
        candidates = self._requests.candidates
        entry_A = candidates.offsets[self._request] + self._candidate
        # NaN (an unknown outcome) is not above 0.
        columns = [candidates.column(outcome_key(name))[entry_A] > 0 for name in outcomes]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self), 0), dtype=np.bool_)

    def evidence(self) -> npt.NDArray[np.float32]:
        """Weights of evidence, (O,): by hand, or from the answers admitted so far; equal on all ranks."""
        return self._evidence.weights(self.state.admitted) if self._by_hand is None else self._by_hand

    def reward(self) -> npt.NDArray[np.float32] | None:
        """Weights of the outcomes in the reward, (O,), fitted to the answers admitted so far; equal on all ranks. None:
        no reward is fitted."""
        return self._reward.weights(self.state.admitted) if self._reward is not None else None

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        requests = self._requests.scalars["request_id"] if self._requests is not None else np.zeros(0, np.int64)
        for column in (requests[self._request], self._candidate, self._answer, self._time):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def continued_from(self, before: AnswerReplay, state: ReplayState) -> ReplayState:
        """The start state of this replay, whose answers extend those of another replay at `state`.

        Raises:
            UserError: the answers admitted by the other replay are not the first answers of this one.
        """
        same = len(self) >= state.admitted and all(
            np.array_equal(mine[: state.admitted], theirs[: state.admitted])
            for mine, theirs in zip(self._identity(), before._identity(), strict=True)
        )
        if not same:
            raise UserError(
                f"the {state.admitted} answers that training has seen are not the first of the {len(self)} answers "
                "here: to continue on other data, keep the old answers and add the new ones"
            )
        replays = np.zeros(len(self), np.int32)
        replays[: state.admitted] = state.replays[: state.admitted]
        return dataclasses.replace(state, replays=replays)

    def _identity(self) -> tuple[Rows, Rows, Rows]:
        """Request, code and time of every answer."""
        if self._requests is None:
            return self._request, self._answer, self._time
        return self._requests.scalars["request_id"][self._request], self._answer, self._time

    def draw(self, clock_ms: int) -> Answers | None:
        """Admits the answers due at `clock_ms` and draws this rank's share of the step's answers.

        None: no answer is due, this rank has no share, or the answers have been replayed often enough.
        """
        state, config, admitted = self.state, self._config, self._due(clock_ms)
        recent = np.arange(max(admitted - config.capacity, 0), admitted)
        drawn = draw(
            recent,
            state.replays,
            self._answer,
            self._request,
            config,
            seed=self._seed,
            step=state.steps,
            world_size=self._world_size,
        )
        self.answers_differ = form_pairs(self._answer[drawn])
        replays = state.replays.copy()
        replays[drawn] += 1
        count = len(drawn)
        age_ms = float(clock_ms - self._time[drawn].mean()) if count else 0.0
        self.state = ReplayState(
            admitted=admitted,
            rarer_class=min(self._classes.among(admitted)),
            steps=state.steps + 1,
            replays=replays,
            age_ms=age_ms,
        )
        mine = drawn[count * self._rank // self._world_size : count * (self._rank + 1) // self._world_size]
        return self._gather(mine) if len(mine) else None

    def skip(self, clock_ms: int) -> None:
        """A step without a draw: admits the answers due at `clock_ms`."""
        self.answers_differ = False
        state, admitted = self.state, self._due(clock_ms)
        rarer_class = min(self._classes.among(admitted))
        self.state = dataclasses.replace(state, admitted=admitted, rarer_class=rarer_class, steps=state.steps + 1)

    def _due(self, clock_ms: int) -> int:
        """Number of answers that have arrived by then; admitted answers stay admitted."""
        return max(self.state.admitted, int(np.searchsorted(self._time, clock_ms, side="right")))

    def _gather(self, entries: Rows) -> Answers:
        assert self._requests is not None
        rows, request = np.unique(self._request[entries], return_inverse=True)
        return Answers(
            requests=self._requests.take(rows),
            request_A=request,
            candidate_A=self._candidate[entries],
            answer_A=self._answer[entries],
            weight_A=self._weight[entries] if self._weight is not None else None,
        )


def draw(
    entries: Rows,
    replays: npt.NDArray[np.int32],
    answer: npt.NDArray[np.integer],
    request: Rows,
    config: Replay,
    *,
    seed: int,
    step: int,
    world_size: int,
) -> Rows:
    """The answers of one step of all ranks, ordered by request, so that answers of one request go to one rank if
    possible. Every rank makes the same draw.

    Args:
        entries: the answers that may be drawn; they index `replays`, `answer` (codes) and `request`.
        step: chooses the random numbers.
    """
    count = min(config.answers_per_step * world_size, len(entries))
    # A whole draw or none: few answers would form few pairs.
    if replays[entries].sum() + count > config.max_replays * len(entries):
        count = 0
    # The least replayed answers first, in random order.
    shuffled = np.random.default_rng([seed, 3, step]).permutation(entries)
    queue = shuffled[np.argsort(replays[shuffled], kind="stable")]
    drawn = (_by_turns(queue, answer) if config.balance else queue)[:count]
    return drawn[np.argsort(request[drawn], kind="stable")]


def form_pairs(answer: npt.NDArray[np.integer]) -> bool:
    """Whether one of the drawn answers is better than another: their codes differ."""
    return len(np.unique(answer)) > 1


def _by_turns(queue: Rows, answer: npt.NDArray[np.integer]) -> Rows:
    """The queue in turns: the first answer of every class, then the second of every class, and so on."""
    code = answer[queue]
    turn = np.zeros(len(queue), np.int64)
    for one in np.unique(code):
        of_class = np.flatnonzero(code == one)
        turn[of_class] = np.arange(len(of_class))
    return queue[np.argsort(turn, kind="stable")]
