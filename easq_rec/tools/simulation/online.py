"""A simulated online experiment in the synthetic world: people open the app, are served, and stay or leave.

These dynamics are assumptions, and results of an experiment hold only under them. With z the satisfaction of an
impression (standard normal under the logging policy) and every constant a field of `Dynamics`:

- A user who has not left for good opens the app on a day with probability sigmoid(return_bias + return_activity
  log(activity) + return_satisfaction s), where s is the user's remembered satisfaction.
- A session is a chain of requests, `Experiment.requests` at most. Each draws a pool of candidates by the world's
  logging policy; the arm's ranker orders it, and the best are shown one by one, in that order. The user's actions have
  the same distribution as in the log (`outcomes.py`).
- An impression's value v is its z after a long view, and `skip` otherwise. After each, the session ends with
  probability sigmoid(leave_bias - leave_satisfaction v). So videos further down are seen by fewer users;
  unseen videos are not logged. Midnight ends every session.
- App stay time is the watch time and `browse_ms` per impression.
- At the end of a day in the app, s moves by the share `memory` towards the mean z of the day's long views (towards
  `skip` if there were none), and the user leaves for good with probability sigmoid(churn_bias - churn_satisfaction s).

All draws are made for all users of the arm, whether or not they are in the app, from random states that depend only on
(world, users, day, request of the session): all rankers that serve the same users get the same days, pools and user
behaviour, so two rankers differ only by their rankings.

Legend: G users of an arm, R requests, M candidates of a pool, K slots of a slate.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.config.schema import require
from easq_rec.data import exact
from easq_rec.data.exact import sigmoid
from easq_rec.tools.simulation.latents import Int, Latents
from easq_rec.tools.simulation.models import Model, create_model
from easq_rec.tools.simulation.outcomes import Streams, outcomes
from easq_rec.tools.simulation.rounds import Histories, Round
from easq_rec.tools.simulation.time_line import DAY_MS, START_MS
from easq_rec.tools.simulation.world import simulate

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rank = Callable[[Round], NDArray[Any]]
"""A ranker: maps requests with their pools to scores [R, M], higher is better. It must not read outcomes."""


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Parameters of staying, returning and leaving; logits and log-odds unless stated otherwise."""

    return_bias: float = -0.4
    """Logit of opening the app on a day, at average activity and s = 0."""
    return_activity: float = 0.5
    """Per unit of log(activity), the log's rate of requests."""
    return_satisfaction: float = 0.8
    """Per unit of s."""
    memory: float = 0.3
    """Weight of a day in the app in s, which starts at 0."""
    leave_bias: float = -3.2
    """Logit of ending the session after an impression of value 0."""
    leave_satisfaction: float = 0.6
    """Per unit of value."""
    skip: float = -0.5
    """Value of an impression without a long view, in units of z."""
    churn_bias: float = -4.5
    """Logit of leaving for good after a day in the app, at s = 0."""
    churn_satisfaction: float = 1.0
    """Per unit of s."""
    browse_ms: int = 1_000
    """Time in the app per impression, in addition to watching."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Duration of the experiment, and how users are served."""

    warmup_days: int = 7
    """Days before the measured week: the effect of a ranker on returning users builds up over days."""
    pool: int = 30
    """Candidates per request."""
    slate: int = 12
    """Number of candidates shown."""
    explore: float = 0.02
    """Share of requests served in random order, so that the arm's log does not only contain its ranker's choices."""
    requests: int = 8
    """Longest session, in requests."""
    dynamics: Dynamics = Dynamics()

    @property
    def days(self) -> int:
        """Days simulated: the warm-up and the measured week."""
        return self.warmup_days + WEEK

    def __post_init__(self) -> None:
        require(self.warmup_days >= 0, "experiment.warmup_days", self.warmup_days, "0 or more")
        require(1 <= self.slate <= self.pool, "experiment.slate", self.slate, f"1 to the pool of {self.pool}")
        require(0 <= self.explore <= 1, "experiment.explore", self.explore, "between 0 and 1")
        require(self.requests >= 1, "experiment.requests", self.requests, "at least 1")


WEEK = 7
GROUPS = 2
LAST_START_MS = 20 * 3_600_000
"""Sessions start in the first hours of a day, so that midnight cuts few short."""
SESSION_GAP_MS = 1_000
"""Time between the end of a slate and the next request."""


def groups(config: World) -> tuple[Int, ...]:
    """The users of a world, split at random into disjoint groups of equal size (sizes differ by one for odd
    numbers)."""
    shuffled = np.random.default_rng([config.seed, 5]).permutation(config.users)
    return tuple(np.sort(part) for part in np.array_split(shuffled, GROUPS))


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A world at the end of its log."""

    model: Model
    histories: Histories
    """Watch histories at the end of the log. `Arm` uses a copy."""

    @staticmethod
    def of(config: World) -> Stage:
        """Simulates the log of a world to its end."""
        model, histories = create_model(config), Histories(config.users, config.history)
        requests = sum(len(part.request_id) for part in simulate(model, histories))
        assert requests == config.requests
        return Stage(model=model, histories=histories)

    @property
    def config(self) -> World:
        """The options of the world."""
        return self.model.config

    @property
    def latents(self) -> Latents:
        """Users and videos of the world."""
        return self.model.latents

    @property
    def start_ms(self) -> int:
        """The first midnight after the log."""
        return START_MS + int(np.ceil(self.config.days)) * DAY_MS


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """The requests served on a day, in time order."""

    requests: Round
    """Requests with their slates as candidates, [R, K]."""
    seen: Int
    """[R] number of leading candidates that the user saw. The others are not logged."""

    def answered(self) -> Served:
        """The requests with an answer."""
        rows = (self.requests.answer != NO_ANSWER).any(axis=1)
        return Served(requests=self.requests.take(rows), seen=self.seen[rows])


@dataclass(frozen=True, kw_only=True)
class Day:
    """Sums over the users of an arm, on one day."""

    users: int
    """Users of the arm, active or not."""
    active: int
    requests: int
    impressions: int
    watch_s: float
    stay_s: float
    long_views: int
    likes: int
    grades: float
    """Sum of the true satisfaction, 0 to 4, over long views."""
    answers: int
    """Answers to impressions of the day, at any arrival time."""


def examine(dynamics: Dynamics, long_view: Bools, satisfy: NDArray[Any], draw: NDArray[Any]) -> tuple[Int, Bools]:
    """Number of impressions that users [R] see of their slates [R, K].

    Args:
        draw: uniform, [R, K].

    Returns:
        (impressions seen, at least one, [R]; whether the session ended there, [R]).
    """
    value = np.where(long_view, satisfy, dynamics.skip)
    leaves: Bools = draw < sigmoid(dynamics.leave_bias - dynamics.leave_satisfaction * value)
    left: Bools = np.any(leaves, axis=1)
    seen: Int = np.where(left, np.argmax(leaves, axis=1) + 1, leaves.shape[1])
    return seen, left


class Population:
    """State of the users of an arm: remembered satisfaction, and who has left for good. All arrays are [G]."""

    def __init__(self, dynamics: Dynamics, activity: NDArray[Any]) -> None:
        self._dynamics = dynamics
        self._base = dynamics.return_bias + dynamics.return_activity * exact.log(activity)
        self.satisfaction = np.zeros(len(activity))
        self.gone = np.zeros(len(activity), dtype=bool)

    @property
    def return_probability(self) -> Floats:
        """Probability of opening the app on the next day."""
        chance = sigmoid(self._base + self._dynamics.return_satisfaction * self.satisfaction)
        return np.where(self.gone, 0.0, chance)

    def close_day(self, active: Bools, satisfaction: Floats, long_views: Int, draw: Floats) -> None:
        """Updates the state after a day.

        Args:
            active: users who opened the app.
            satisfaction: sum of z over the day's long views.
            draw: uniform.
        """
        dynamics = self._dynamics
        today = np.where(long_views > 0, satisfaction / np.maximum(long_views, 1), dynamics.skip)
        moved = self.satisfaction + dynamics.memory * (today - self.satisfaction)
        self.satisfaction = np.where(active, moved, self.satisfaction)
        churn = sigmoid(dynamics.churn_bias - dynamics.churn_satisfaction * self.satisfaction)
        self.gone |= active & (draw < churn)


class Arm:
    """A group of users of a world that one ranker serves day by day."""

    def __init__(self, stage: Stage, experiment: Experiment, users: Int) -> None:
        self.users = users
        self.population = Population(experiment.dynamics, stage.latents.activity[users])
        self._stage = stage
        self._experiment = experiment
        self._histories = stage.histories.copy()
        self._next_id = stage.config.requests
        self._seed = [stage.config.seed, 6, zlib.crc32(users.tobytes())]
        self.day = 0
        """Days simulated so far."""
        self.active_days: list[Bools] = []
        """For each day, [G]: the users who opened the app."""

    def serve_day(self, rank: Rank) -> tuple[Served, Day]:
        """Simulates the next day."""
        parts: list[Served] = []
        sums = self.serve_day_in_parts(rank, 1, parts.append)
        return parts[0], sums

    def serve_day_in_parts(self, rank: Rank, parts: int, after: Callable[[Served], object]) -> Day:
        """Simulates the next day, in parts by the start of the sessions. Users do the same in any number of parts, as
        long as the ranker ranks alike.

        Args:
            after: called with the requests of each part, before the next one is served.
        """
        experiment, size = self._experiment, len(self.users)
        draws = self._random(0)
        came, start, churn = draws.random(size), draws.random(size), draws.random(size)
        active = came < self.population.return_probability
        midnight = self._stage.start_ms + self.day * DAY_MS
        clock_ms = midnight + (LAST_START_MS * start).astype(np.int64)
        satisfaction, long_views, stay_ms = np.zeros(size), np.zeros(size, dtype=np.int64), 0
        all_served: list[Served] = []
        for part in range(parts):
            live, slates = np.flatnonzero(active & ((start * parts).astype(np.int64) == part)), []
            for turn in range(1, experiment.requests + 1):
                if not len(live):
                    break
                slate, satisfy, left = self._serve(rank, live, clock_ms[live], turn)
                slates.append(slate)
                seen = np.arange(experiment.slate) < slate.seen[:, None]
                viewed = seen & (slate.requests.long_view == 1)
                satisfaction[live] += np.where(viewed, satisfy, 0.0).sum(axis=1)
                long_views[live] += viewed.sum(axis=1)
                spent = np.where(seen, slate.requests.watch_ms + experiment.dynamics.browse_ms, 0).sum(axis=1)
                stay_ms += int(spent.sum())
                clock_ms[live] += spent + SESSION_GAP_MS
                live = live[~left & (clock_ms[live] < midnight + DAY_MS)]
            all_served.append(self._in_time_order(slates))
            after(all_served[-1])
        self.population.close_day(active, satisfaction, long_views, churn)
        self.active_days.append(active)
        self.day += 1
        return self._sums(_joined(all_served), int(active.sum()), stay_ms)

    def _random(self, turn: int, *, of: int = 0) -> np.random.Generator:
        """Random state of a request of all sessions, or of the day itself (turn 0).

        Args:
            of: 1: that of the questionnaire.
        """
        return np.random.default_rng([*self._seed, self.day, turn, of])

    def _serve(self, rank: Rank, live: Int, timestamp_ms: Int, turn: int) -> tuple[Served, NDArray[np.float32], Bools]:
        """Serves one request to each of the users `live`.

        Returns:
            (slates, z of their candidates [R, K], whether the session ended [R]).
        """
        stage, experiment, rng = self._stage, self._experiment, self._random(turn)
        # Drawn for all users, so that a user's draws do not depend on who else is active.
        videos = stage.latents.candidates(rng, self.users, experiment.pool)
        everyone_ms = np.full(len(self.users), stage.start_ms + self.day * DAY_MS)
        everyone_ms[live] = timestamp_ms
        scores = stage.model.scores(self.users, videos, everyone_ms)
        # The questionnaire has a state of its own, so that it draws for all impressions. Otherwise the number of its
        # draws would depend on who answers, and the draws that follow would, too.
        asked = self._random(turn, of=1)
        one = Streams(log=rng, later=rng, questionnaire=asked, careless=asked)
        drawn = outcomes(one, stage.model, scores, everyone_ms, self.users, videos)
        explored = rng.random(len(self.users)) < experiment.explore
        anyhow = rng.random(videos.shape)
        leaving = rng.random((len(self.users), experiment.slate))

        history = self._histories.read(self.users[live])
        pool = stage.model.round_type(
            request_id=np.arange(len(live)),
            user_id=self.users[live],
            timestamp_ms=timestamp_ms,
            history_length=history[0],
            history_video=history[1],
            history_timestamp_ms=history[2],
            history_ratio=history[3],
            video=videos[live],
            **{name: column[live] for name, column in drawn.items()},
        )
        score = np.where(explored[live, None], anyhow[live], rank(pool))
        best = np.argsort(-score, axis=1, kind="stable")[:, : experiment.slate]
        slate, satisfy = pool.choose(best), np.take_along_axis(scores.satisfy[live], best, axis=1)
        seen, left = examine(experiment.dynamics, slate.long_view == 1, satisfy, leaving[live])
        unseen = np.arange(experiment.slate) >= seen[:, None]
        slate = dataclasses.replace(slate, answer=np.where(unseen, NO_ANSWER, slate.answer).astype(np.int8))
        ratio = np.divide(slate.watch_ms, stage.latents.duration_ms[slate.video]).astype(np.float32)
        self._histories.append(slate.user_id, slate.video, timestamp_ms, ratio, (slate.long_view == 1) & ~unseen)
        return Served(requests=slate, seen=seen), satisfy, left

    def _in_time_order(self, slates: list[Served]) -> Served:
        """All requests of a part of a day in time order, with ascending ids."""
        if not slates:
            return self._nothing()
        joined = _joined(slates)
        order = np.argsort(joined.requests.timestamp_ms, kind="stable")
        first, self._next_id = self._next_id, self._next_id + len(order)
        requests = dataclasses.replace(joined.requests, request_id=np.argsort(order) + first)
        return Served(requests=requests.take(order), seen=joined.seen[order])

    def _nothing(self) -> Served:
        """A day without active users."""
        nobody = np.zeros(0, dtype=np.int64)
        slate, _, _ = self._serve(lambda pool: pool.true_engagement, nobody, nobody, 1)
        return slate

    def _sums(self, served: Served, active: int, stay_ms: int) -> Day:
        part = served.requests
        seen = np.arange(part.video.shape[1]) < served.seen[:, None]
        viewed = seen & (part.long_view == 1)
        return Day(
            users=len(self.users),
            active=active,
            requests=len(served.seen),
            impressions=int(served.seen.sum()),
            watch_s=float(part.watch_ms[seen].sum(dtype=np.int64)) / 1_000,
            stay_s=stay_ms / 1_000,
            long_views=int(viewed.sum()),
            likes=int(part.like[seen].sum()),
            grades=float(part.true_satisfaction[viewed].sum()),
            answers=int((part.answer != NO_ANSWER).sum()),
        )


def _joined(parts: list[Served]) -> Served:
    """All requests of some parts, one part after the other."""
    first = parts[0].requests
    columns = {
        field.name: np.concatenate([getattr(part.requests, field.name) for part in parts])
        for field in dataclasses.fields(first)
    }
    return Served(requests=type(first)(**columns), seen=np.concatenate([part.seen for part in parts]))
