"""The simulated experiment: its dynamics compared with loops, its log, and its power to distinguish rankers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from easq_rec.config import World
from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.evaluation.mean_interval import t_interval
from easq_rec.tools.simulation.online import (
    Arm,
    Day,
    Dynamics,
    Experiment,
    Population,
    Rank,
    Served,
    Stage,
    examine,
    groups,
)
from easq_rec.tools.simulation.rounds import Round
from easq_rec.tools.simulation.time_line import DAY_MS

WORLD = World(requests=1_000, users=200, videos=300, history=10, density=2_000.0, days=3.0, seed=3)
EXPERIMENT = Experiment(warmup_days=2, pool=20, slate=6, requests=4)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.fixture(scope="module", params=[1, 2])
def stage(request: pytest.FixtureRequest) -> Stage:
    """The end of the log in each of the two worlds."""
    return Stage.of(dataclasses.replace(WORLD, version=request.param))


def by_engagement(pool: Round) -> NDArray[Any]:
    return pool.true_engagement


def at_random(seed: int) -> Rank:
    rng = np.random.default_rng(seed)
    return lambda pool: rng.random(pool.video.shape)


def by_satisfaction(stage: Stage) -> Rank:
    def rank(pool: Round) -> NDArray[Any]:
        return stage.model.scores(pool.user_id, pool.video, pool.timestamp_ms).satisfy

    return rank


def simulated(
    stage: Stage, rank: Rank, half: int = 0, experiment: Experiment = EXPERIMENT
) -> tuple[Arm, list[Served], list[Day]]:
    arm = Arm(stage, experiment, groups(stage.config)[half])
    days = [arm.serve_day(rank) for _ in range(experiment.days)]
    return arm, [served for served, _ in days], [sums for _, sums in days]


def test_examination_equals_a_loop() -> None:
    dynamics, rng = Dynamics(leave_bias=-1.5, leave_satisfaction=1.2, skip=-0.7), np.random.default_rng(0)
    long_view, satisfy, draw = rng.random((300, 5)) < 0.5, rng.normal(size=(300, 5)), rng.random((300, 5))
    seen, left = examine(dynamics, long_view, satisfy, draw)
    for row in range(300):
        expected, gone = 0, False
        for slot in range(5):
            expected += 1
            value = satisfy[row, slot] if long_view[row, slot] else -0.7
            if draw[row, slot] < logistic(-1.5 - 1.2 * value):
                gone = True
                break
        assert (seen[row], left[row]) == (expected, gone)
    assert seen.min() == 1 and seen.max() == 5 and 0 < left.mean() < 1


def test_users_see_more_of_satisfying_slates() -> None:
    rng, watched = np.random.default_rng(1), np.ones((5_000, 12), dtype=bool)
    draw = rng.random((5_000, 12))
    lengths = [examine(Dynamics(), watched, np.full(draw.shape, z), draw)[0].mean() for z in (-1.0, 0.0, 1.0)]
    assert lengths[0] < lengths[1] - 0.5 < lengths[2] - 1.0
    # A video without a long view counts as `skip`, whatever its satisfaction is.
    skipped = examine(Dynamics(), ~watched, np.full(draw.shape, 3.0), draw)[0]
    assert skipped.mean() == examine(Dynamics(), watched, np.full(draw.shape, Dynamics().skip), draw)[0].mean()


def test_memory_return_and_churn_equal_a_loop() -> None:
    dynamics, rng = Dynamics(churn_bias=-1.0), np.random.default_rng(2)
    activity = np.exp(rng.normal(size=60))
    population = Population(dynamics, activity)
    memory, gone = [0.0] * 60, [False] * 60
    for _ in range(6):
        active = (rng.random(60) < 0.6) & ~population.gone
        long_views = rng.integers(0, 3, 60) * active
        satisfaction, draw = long_views * rng.normal(size=60), rng.random(60)
        population.close_day(active, satisfaction, long_views, draw)
        for user in np.flatnonzero(active):
            today = satisfaction[user] / long_views[user] if long_views[user] else dynamics.skip
            memory[user] = (1 - dynamics.memory) * memory[user] + dynamics.memory * today
            if draw[user] < logistic(dynamics.churn_bias - dynamics.churn_satisfaction * memory[user]):
                gone[user] = True
    chances = [
        0.0 if gone[user] else logistic(
            dynamics.return_bias + dynamics.return_activity * math.log(activity[user])
            + dynamics.return_satisfaction * memory[user]
        )
        for user in range(60)
    ]  # fmt: skip
    assert population.satisfaction == pytest.approx(memory)
    assert population.gone.tolist() == gone and 0 < sum(gone) < 60
    assert population.return_probability == pytest.approx(chances)


def test_groups_are_disjoint_of_equal_size_and_determined_by_the_seed() -> None:
    config = World(users=101)
    one, two = groups(config)
    assert sorted([*one, *two]) == list(range(101)) and abs(len(one) - len(two)) == 1
    # The groups are random, not the first and the last users.
    assert 30 < one.mean() < 70 and not np.array_equal(one, np.arange(51))
    assert np.array_equal(groups(config)[0], one)
    assert not np.array_equal(groups(dataclasses.replace(config, seed=1))[0], one)


def test_the_same_seed_gives_the_same_days(stage: Stage) -> None:
    (_, first, days), (_, again, days_again) = (simulated(stage, by_engagement) for _ in range(2))
    assert days == days_again
    assert all(np.array_equal(a.requests.video, b.requests.video) for a, b in zip(first, again, strict=True))
    other = Stage.of(dataclasses.replace(stage.config, seed=4))
    assert simulated(other, by_engagement)[2] != days
    assert simulated(stage, by_engagement, half=1)[2] != days


def test_the_first_day_does_not_depend_on_the_ranker(stage: Stage) -> None:
    """The users of the first day, their times, candidates and outcomes do not depend on the ranker."""
    pools: list[Round] = []

    def keeping(rank: Rank) -> Rank:
        def kept(pool: Round) -> NDArray[Any]:
            pools.append(pool)
            return rank(pool)

        return kept

    for rank in (by_engagement, by_satisfaction(stage)):
        Arm(stage, EXPERIMENT, groups(WORLD)[0]).serve_day(keeping(rank))
    first = [
        index for index, pool in enumerate(pools) if pool.timestamp_ms.size == max(p.timestamp_ms.size for p in pools)
    ]
    assert len(first) == 2
    for field in dataclasses.fields(Round):
        assert np.array_equal(getattr(pools[first[0]], field.name), getattr(pools[first[1]], field.name)), field.name
    # Users who make the next request of the session with both rankers get the same candidates.
    second = pools[first[0] + 1], pools[first[1] + 1]
    both, one, two = np.intersect1d(second[0].user_id, second[1].user_id, return_indices=True)
    assert len(both) > 5 and np.array_equal(second[0].video[one], second[1].video[two])


def test_users_do_the_same_on_a_day_in_parts(stage: Stage) -> None:
    users = groups(stage.config)[0]
    whole, expected = Arm(stage, EXPERIMENT, users).serve_day(by_engagement)
    parts: list[Served] = []
    found = Arm(stage, EXPERIMENT, users).serve_day_in_parts(by_engagement, 3, parts.append)
    assert found == expected and len(parts) == 3 and all(len(part.seen) for part in parts)
    ids = np.concatenate([part.requests.request_id for part in parts])
    assert np.array_equal(ids, np.arange(len(ids)) + WORLD.requests), "in the order of the parts"
    assert all((np.diff(part.requests.timestamp_ms) >= 0).all() for part in parts)
    one = {tuple(pair) for pair in zip(whole.requests.user_id, whole.requests.timestamp_ms, strict=True)}
    other = {
        tuple(pair) for part in parts for pair in zip(part.requests.user_id, part.requests.timestamp_ms, strict=True)
    }
    assert one == other and len(one) == len(ids)


def test_slates_are_ordered_by_score_unless_explored(stage: Stage) -> None:
    never, always = (dataclasses.replace(EXPERIMENT, explore=share) for share in (0.0, 1.0))
    ordered = simulated(stage, by_engagement, experiment=never)[1][0].requests.true_engagement
    assert (np.diff(ordered, axis=1) <= 0).all()
    explored = simulated(stage, by_engagement, experiment=always)[1][0].requests.true_engagement
    assert 0.3 < (np.diff(explored, axis=1) <= 0).mean() < 0.7
    assert ordered.mean() > explored.mean() + 0.1


def test_histories_answers_and_sums_count_only_seen_impressions(stage: Stage) -> None:
    arm, served, days = simulated(stage, by_engagement)
    history: dict[int, list[int]] = {}
    start = stage.histories.read(arm.users)
    for row, user in enumerate(arm.users):
        history[int(user)] = start[1][row, : start[0][row]].tolist()
    ids: list[int] = []
    for number, (day, sums) in enumerate(zip(served, days, strict=True)):
        part, midnight = day.requests, stage.start_ms + number * DAY_MS
        assert (np.diff(part.timestamp_ms) >= 0).all()
        assert part.timestamp_ms.min() >= midnight and part.timestamp_ms.max() < midnight + DAY_MS
        ids += part.request_id.tolist()
        watch = likes = stay = answers = long_views = 0
        for row in range(len(day.seen)):
            user, length = int(part.user_id[row]), int(part.history_length[row])
            assert part.history_video[row, :length].tolist() == history[user][-WORLD.history :]
            assert (part.history_timestamp_ms[row, :length] < part.timestamp_ms[row]).all()
            assert len(set(part.video[row])) == EXPERIMENT.slate
            assert (part.answer[row, day.seen[row] :] == NO_ANSWER).all()
            for slot in range(day.seen[row]):
                watch += int(part.watch_ms[row, slot])
                stay += int(part.watch_ms[row, slot]) + Dynamics().browse_ms
                likes += int(part.like[row, slot])
                answers += int(part.answer[row, slot] != NO_ANSWER)
                if part.long_view[row, slot]:
                    long_views += 1
                    history[user].append(int(part.video[row, slot]))
        assert sums.watch_s == pytest.approx(watch / 1_000) and sums.stay_s == pytest.approx(stay / 1_000)
        assert (sums.likes, sums.answers, sums.long_views) == (likes, answers, long_views)
        assert sums.active == len(set(part.user_id)) == arm.active_days[number].sum()
        answered = day.answered()
        assert (answered.requests.answer != NO_ANSWER).any(axis=1).all() and len(answered.seen) <= answers
    assert ids == list(range(WORLD.requests, WORLD.requests + len(ids)))
    assert sum(sums.answers for sums in days) > 20 and len({tuple(day.seen) for day in served}) > 1


def test_an_arm_does_not_change_the_stage(stage: Stage) -> None:
    before = stage.histories.video.copy()
    simulated(stage, by_engagement)
    assert np.array_equal(stage.histories.video, before)


def test_a_day_without_active_users_has_no_requests(stage: Stage) -> None:
    deserted = dataclasses.replace(EXPERIMENT, dynamics=Dynamics(return_bias=-100.0))
    _, served, days = simulated(stage, by_engagement, experiment=deserted)
    assert all(len(day.seen) == 0 for day in served)
    assert all((day.active, day.requests, day.watch_s, day.users) == (0, 0, 0.0, 100) for day in days)


def active_days(stage: Stage, rank: Rank) -> tuple[float, float]:
    """Means of LT7 and of seconds in the app per user-day, in the measured week and over both halves."""
    arms = [simulated(stage, rank, half) for half in (0, 1)]
    lt7 = np.mean([np.sum(arm.active_days[-7:], axis=0).mean() for arm, _, _ in arms])
    return float(lt7), float(np.mean([day.stay_s / day.users for _, _, days in arms for day in days[-7:]]))


@pytest.mark.parametrize(("version", "widest"), [(1, 10.0), (2, 15.0)])
def test_a_better_ranker_wins_and_equal_rankers_do_not_differ(version: Literal[1, 2], widest: float) -> None:
    """Ranking by true satisfaction increases LT7 and app time. Two random rankers do not differ significantly.

    In World 2 users differ more in how much they watch, so that intervals are wider.
    """
    wins, nothing = [], []
    for seed in range(6):
        stage = Stage.of(dataclasses.replace(WORLD, version=version, seed=seed))
        random = np.array(active_days(stage, at_random(1)))
        wins.append(100 * (np.array(active_days(stage, by_satisfaction(stage))) / random - 1))
        nothing.append(100 * (np.array(active_days(stage, at_random(2))) / random - 1))
    for metric in (0, 1):
        win, same = (t_interval([found[metric] for found in sample]) for sample in (wins, nothing))
        assert win.low > 5, win
        assert same.low < 0 < same.high and same.high - same.low < widest, same


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"slate": 31}, "experiment.slate=31 is not allowed: 1 to the pool of 30"),
        ({"explore": 1.5}, "experiment.explore"),
        ({"warmup_days": -1}, "experiment.warmup_days"),
        ({"requests": 0}, "experiment.requests"),
    ],
)
def test_invalid_experiments_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Experiment(**wrong)
