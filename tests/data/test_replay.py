"""Answer replay: admission times, draw counts, and one common draw for all ranks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easq_rec.answers.propensity import Propensities
from easq_rec.config import Replay
from easq_rec.data.batch import Answers
from easq_rec.data.encode import EncodedRequests
from easq_rec.data.replay import AnswerReplay, ReplayState
from tests.data.builders import Row, answer_row, arrow_schema, ids, make_rows, read_answers, write_dataset

Key = tuple[int, int]
"""(request_id, candidate number) of an answer."""

NEVER = 2**62
REPLIES: list[dict[int, tuple[int, int]]] = [
    {0: (2, 500), 2: (0, 300)},
    {1: (1, 200)},
    {0: (0, 400), 1: (1, 100), 2: (2, 400)},
    {},
    {2: (2, 600)},
]
"""Answers of each request: candidate -> (answer, milliseconds after the time of the first request)."""
START = 1_000_000


def answered_rows(replies: list[dict[int, tuple[int, int]]]) -> list[Row]:
    """Requests with three candidates each, one millisecond apart, the first at `START`."""
    rng = np.random.default_rng(0)
    rows = make_rows(rng, len(replies), first_id=10)
    answered = []
    for index, (row, reply) in enumerate(zip(rows, replies, strict=True)):
        row["timestamp_ms"] = START + index
        row["candidates"] = [{**row["candidates"][0], "video_id": number} for number in range(3)]
        answers = {number: (code, START + delay) for number, (code, delay) in reply.items()}
        answered.append(answer_row(rng, row, answers))
    return answered


def read(directory: Path, rows: list[Row]) -> EncodedRequests | None:
    schema = arrow_schema(answers=True)
    return read_answers(write_dataset(directory, rows, schema=schema, file_sizes=[2], row_group_sizes=[1]))


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> EncodedRequests:
    columns = read(tmp_path_factory.mktemp("answers"), answered_rows(REPLIES))
    assert columns is not None
    return columns


def replay_of(
    requests: EncodedRequests | None,
    config: Replay,
    *,
    until_ms: int = NEVER,
    ranked: tuple[int, ...] = (0, 2),
    slates: bool = True,
    seed: int = 0,
    outcomes: tuple[str, ...] = (),
    caution: float = 0.0,
    weights: dict[str, float] | None = None,
    ridge: float | None = None,
    propensities: Propensities | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> AnswerReplay:
    return AnswerReplay(
        requests,
        config,
        until_ms=until_ms,
        ranked=ranked,
        slates=slates,
        seed=seed,
        outcomes=outcomes,
        caution=caution,
        weights=weights,
        ridge=ridge,
        propensities=propensities,
        rank=rank,
        world_size=world_size,
    )


def keys(answers: Answers | None) -> list[Key]:
    """The drawn answers, identified by the item of their candidate."""
    if answers is None:
        return []
    requests, drawn = ids(answers.requests), []
    for request, candidate in zip(answers.request_A.tolist(), answers.candidate_A.tolist(), strict=True):
        entry = answers.requests.candidates.offsets[request] + candidate
        # The item of a candidate is its number in the request that was written.
        drawn.append((requests[request], int(answers.requests.candidates.column("video_id")[entry])))
    return drawn


def codes(answers: Answers | None) -> list[int]:
    return answers.answer_A.tolist() if answers is not None else []


ALL = Replay(answers_per_step=100)


@pytest.mark.parametrize(
    ("after_ms", "ranked", "expected"),
    [
        (99, (0, 1, 2), []),
        (100, (0, 1, 2), [(12, 1)]),
        (299, (0, 2), []),
        (300, (0, 2), [(10, 2)]),
        (399, (0, 2), [(10, 2)]),
        (400, (0, 2), [(10, 2), (12, 0), (12, 2)]),
        (599, (0, 2), [(10, 0), (10, 2), (12, 0), (12, 2)]),
        (600, (0, 2), [(10, 0), (10, 2), (12, 0), (12, 2), (14, 2)]),
        (600, (0, 1, 2), [(10, 0), (10, 2), (11, 1), (12, 0), (12, 1), (12, 2), (14, 2)]),
        (600, (1,), [(11, 1), (12, 1)]),
    ],
)
def test_an_answer_is_admitted_when_the_clock_reaches_it(
    answered: EncodedRequests, after_ms: int, ranked: tuple[int, ...], expected: list[Key]
) -> None:
    drawn = replay_of(answered, ALL, ranked=ranked).draw(START + after_ms)
    assert sorted(keys(drawn)) == expected
    assert sorted(zip(keys(drawn), codes(drawn), strict=True)) == [
        ((request, candidate), REPLIES[request - 10][candidate][0]) for request, candidate in expected
    ]


def test_answered_candidates_come_with_or_without_their_slate(answered: EncodedRequests) -> None:
    """The draw is the same; without slates, only answered candidates are looked up."""
    for until_ms, ranked, alone in (
        (NEVER, (0, 2), [0, 2, 0, 2, 2]),
        (NEVER, (0, 1, 2), [0, 2, 1, 0, 1, 2, 2]),
        (START + 500, (0, 2), [2, 0, 2]),
    ):
        slates, pruned = (
            replay_of(answered, ALL, until_ms=until_ms, ranked=ranked, slates=slates).draw(NEVER)
            for slates in (True, False)
        )
        assert slates is not None
        assert pruned is not None
        assert keys(pruned) == keys(slates)
        assert codes(pruned) == codes(slates)
        assert ids(pruned.requests) == ids(slates.requests)
        assert slates.requests.candidates.column("video_id").tolist() == [0, 1, 2] * len(slates.requests)
        assert pruned.requests.candidates.column("video_id").tolist() == alone
        assert pruned.requests.history.lengths.tolist() == slates.requests.history.lengths.tolist()


def test_a_draw_is_sorted_by_request(answered: EncodedRequests) -> None:
    drawn = replay_of(answered, ALL, ranked=(0, 1, 2)).draw(NEVER)
    assert drawn is not None
    assert drawn.request_A.tolist() == sorted(drawn.request_A.tolist()) == [0, 0, 1, 2, 2, 2, 3]
    assert ids(drawn.requests) == [10, 11, 12, 14], "each request once, and none without answers"


def test_answers_from_the_held_out_period_are_ignored(answered: EncodedRequests) -> None:
    for until_ms, expected in ((300, []), (301, [(10, 2)]), (401, [(10, 2), (12, 0), (12, 2)])):
        replay = replay_of(answered, ALL, until_ms=START + until_ms)
        assert len(replay) == len(expected)
        assert sorted(keys(replay.draw(NEVER))) == expected


def test_admitted_answers_stay_admitted_if_the_clock_goes_back(answered: EncodedRequests) -> None:
    replay = replay_of(answered, ALL)
    assert len(keys(replay.draw(START + 400))) == 3
    assert len(keys(replay.draw(START))) == 3


def test_capacity_keeps_the_most_recent_answers(answered: EncodedRequests) -> None:
    replay = replay_of(answered, dataclasses.replace(ALL, capacity=2))
    assert sorted(keys(replay.draw(START + 300))) == [(10, 2)]
    assert sorted(keys(replay.draw(START + 400))) == [(12, 0), (12, 2)]
    assert sorted(keys(replay.draw(START + 500))) == [(10, 0), (12, 2)]
    assert sorted(keys(replay.draw(START + 600))) == [(10, 0), (14, 2)]


def test_answers_are_replayed_as_often_as_allowed(answered: EncodedRequests) -> None:
    """All equally often: each draw takes the least replayed answers."""
    replay = replay_of(answered, Replay(answers_per_step=2, max_replays=3))
    draws = [keys(replay.draw(NEVER)) for _ in range(12)]
    assert all(len(set(draw)) == len(draw) for draw in draws), "an answer is at most once in a draw"
    # Three replays of each of five answers are allowed. An eighth draw of two would be the sixteenth.
    assert [len(draw) for draw in draws] == [2] * 7 + [0] * 5
    counts = Counter(key for draw in draws for key in draw)
    assert set(counts) == {(10, 0), (10, 2), (12, 0), (12, 2), (14, 2)}
    assert sorted(counts.values()) == [2, 3, 3, 3, 3] == sorted(replay.state.replays.tolist())


def test_a_new_answer_is_drawn_together_with_older_ones(tmp_path: Path) -> None:
    """After the older ones have been replayed as often as allowed: alone it would form no pair."""
    requests = read(tmp_path, answered_rows([{0: (code, 10)} for code in (0, 2, 0, 2)] + [{0: (2, 500)}]))
    replay = replay_of(requests, Replay(answers_per_step=2, max_replays=4))
    before = [len(keys(replay.draw(START + 400))) for _ in range(20)]
    assert sum(before) == 4 * 4 and before[-1] == 0
    after = [replay.draw(NEVER) for _ in range(5)]
    assert [len(keys(draw)) for draw in after] == [2, 2, 0, 0, 0]
    newest = max(key for draw in after for key in keys(draw))
    assert all(newest in keys(draw) for draw in after[:2]) and replay.state.replays.sum() == 5 * 4


def test_answers_that_left_the_buffer_do_not_count(answered: EncodedRequests) -> None:
    """However often they were replayed."""
    replay = replay_of(answered, Replay(answers_per_step=2, max_replays=3, capacity=2))
    for _ in range(9):
        replay.draw(START + 400)
    assert replay.draw(START + 400) is None
    assert len(keys(replay.draw(START + 600))) == 2


def test_a_step_without_a_draw_admits_answers_and_is_counted(answered: EncodedRequests) -> None:
    """Later draws depend on the number of the step and on how often answers were replayed."""
    replay, other = replay_of(answered, Replay(answers_per_step=2)), replay_of(answered, Replay(answers_per_step=2))
    replay.skip(NEVER)
    assert (replay.state.admitted, replay.state.steps) == (5, 1) and not replay.state.replays.any()
    replay.skip(START)
    assert (replay.state.admitted, replay.state.steps) == (5, 2), "admitted answers stay admitted"
    other.state = dataclasses.replace(other.state, steps=2)
    assert keys(replay.draw(NEVER)) == keys(other.draw(NEVER))


def test_every_rank_knows_whether_the_drawn_answers_form_a_pair(answered: EncodedRequests) -> None:
    """Also a rank without a share."""
    for rank in (0, 1):
        replay = replay_of(answered, Replay(answers_per_step=1, max_replays=2), rank=rank, world_size=2)
        assert not replay.answers_differ
        alone = replay.draw(START + 300)
        assert (alone is None) == (rank == 0) and not replay.answers_differ
        # Two of the three answers that have come by then, of which one is satisfied and two are not, or the reverse.
        differ = set()
        for _ in range(3):
            replay.draw(START + 400)
            differ.add(replay.answers_differ)
        assert True in differ
        replay.draw(START + 400)
        assert not replay.answers_differ, "all have been replayed as often as allowed"
        replay.draw(NEVER)
        replay.skip(NEVER)
        assert not replay.answers_differ, "nothing is drawn"


def test_draws_are_spread_evenly_over_the_answers(answered: EncodedRequests) -> None:
    replay = replay_of(answered, Replay(answers_per_step=2, max_replays=1_000))
    draws = [tuple(sorted(keys(replay.draw(NEVER)))) for _ in range(300)]
    counts = Counter(key for draw in draws for key in draw)
    assert len(counts) == 5 and set(counts.values()) == {120}
    # All ten pairs meet.
    assert len(set(draws)) == 10


def test_the_draws_are_a_function_of_the_seed(answered: EncodedRequests) -> None:
    def draws(seed: int) -> list[list[Key]]:
        replay = replay_of(answered, Replay(answers_per_step=2), seed=seed)
        return [keys(replay.draw(NEVER)) for _ in range(10)]

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


replies = st.lists(
    st.dictionaries(st.integers(0, 2), st.tuples(st.integers(0, 2), st.integers(10, 40)), max_size=3),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    replies=replies,
    per_rank=st.integers(1, 3),
    world_size=st.integers(1, 4),
    max_replays=st.integers(1, 4),
    clocks=st.lists(st.integers(0, 50), min_size=1, max_size=6),
)
def test_ranks_share_the_draw_of_a_single_rank(
    tmp_path_factory: pytest.TempPathFactory,
    replies: list[dict[int, tuple[int, int]]],
    per_rank: int,
    world_size: int,
    max_replays: int,
    clocks: list[int],
) -> None:
    requests = read(tmp_path_factory.mktemp("replay"), answered_rows(replies))
    config = Replay(answers_per_step=per_rank, max_replays=max_replays)
    whole = replay_of(requests, dataclasses.replace(config, answers_per_step=per_rank * world_size))
    ranks = [replay_of(requests, config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for clock in clocks:
        together = whole.draw(START + clock)
        parts = [rank.draw(START + clock) for rank in ranks]
        assert [key for part in parts for key in keys(part)] == keys(together)
        assert [code for part in parts for code in codes(part)] == codes(together)
        lengths = [len(keys(part)) for part in parts]
        assert max(lengths) <= per_rank and max(lengths) - min(lengths) <= 1
        for rank in ranks:
            assert_same(rank.state, whole.state)


def assert_same(state: ReplayState, other: ReplayState) -> None:
    assert (state.admitted, state.steps) == (other.admitted, other.steps)
    assert state.replays.tolist() == other.replays.tolist()


def test_a_restored_state_continues_with_the_same_draws(answered: EncodedRequests) -> None:
    config = Replay(answers_per_step=2, max_replays=5)
    clocks = [START + 100 * step for step in range(2, 12)]
    replay = replay_of(answered, config)
    states, draws = [replay.state], []
    for clock in clocks:
        draws.append(keys(replay.draw(clock)))
        states.append(replay.state)
    assert sum(map(len, draws)) > 10
    for stop, state in enumerate(states):
        other = replay_of(answered, config)
        other.state = state
        assert [keys(other.draw(clock)) for clock in clocks[stop:]] == draws[stop:]
        assert_same(other.state, states[-1])


def test_a_draw_does_not_change_earlier_states(answered: EncodedRequests) -> None:
    replay = replay_of(answered, ALL)
    before = replay.state
    replay.draw(NEVER)
    assert before.steps == 0 and before.replays.tolist() == [0] * 5
    assert replay.state.replays.tolist() == [1] * 5


def test_an_answer_time_without_an_answer_is_ignored(tmp_path: Path) -> None:
    rows = answered_rows([{}, {0: (2, 5)}])
    rows[0]["candidates"][1]["answered_at_ms"] = 7
    assert keys(replay_of(read(tmp_path, rows), ALL).draw(NEVER)) == [(11, 0)]


def test_an_answer_at_the_time_of_its_request_is_allowed(tmp_path: Path) -> None:
    requests = read(tmp_path, answered_rows([{}, {0: (2, 1)}]))
    assert keys(replay_of(requests, ALL).draw(START + 1)) == [(11, 0)]


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ((50, 50, 50), 6, (2, 2, 2)),
        ((1, 50, 90), 9, (1, 4, 4)),
        ((3, 0, 40), 8, (3, 0, 5)),
        ((0, 0, 40), 8, (0, 0, 8)),
        ((2, 1, 1), 8, (2, 1, 1)),
    ],
)
def test_a_balanced_draw_has_equal_numbers_of_each_class(
    tmp_path: Path, counts: tuple[int, int, int], size: int, expected: tuple[int, int, int]
) -> None:
    codes_ = [code for code in range(3) for _ in range(counts[code])]
    requests = read(tmp_path, answered_rows([{0: (code, 1_000)} for code in codes_]))
    replay = replay_of(requests, Replay(answers_per_step=size, balance=True, max_replays=1_000), ranked=(0, 1, 2))
    drawn = [replay.draw(NEVER) for _ in range(30)]
    assert {tuple(Counter(codes(draw))[code] for code in range(3)) for draw in drawn} == {expected}
    # In each class all answers were drawn equally often, within random variation.
    replays = replay.state.replays
    for code in range(3):
        of_class = replays[[i for i, c in enumerate(codes_) if c == code]]
        if counts[code]:
            assert of_class.sum() == 30 * expected[code]
            assert of_class.max() <= of_class.mean() + 6 * of_class.mean() ** 0.5


def test_a_balanced_draw_of_odd_size_favours_no_class(tmp_path: Path) -> None:
    requests = read(tmp_path, answered_rows([{0: (code, 1_000)} for code in (0, 2) * 30]))
    replay = replay_of(requests, Replay(answers_per_step=3, balance=True))
    shares = [Counter(codes(replay.draw(NEVER))) for _ in range(100)]
    assert {tuple(sorted(share.values())) for share in shares} == {(1, 2)}
    assert 30 <= sum(share[2] == 2 for share in shares) <= 70


def test_statistics_for_the_log(answered: EncodedRequests) -> None:
    replay = replay_of(answered, Replay(answers_per_step=1))
    assert replay.state.statistics() == {
        "replay_admitted": 0, "replay_rarer_class": 0, "replay_mean": 0, "replay_max": 0, "replay_age_hours": 0
    }  # fmt: skip
    assert keys(replay.draw(START + 300)) == [(10, 2)]
    assert replay.state.statistics()["replay_age_hours"] == 0
    replay.draw(START + 300 + 3_600_000)
    found = replay.state.statistics()
    # Five answers are admitted, and two draws of one answer were made.
    assert (found["replay_admitted"], found["replay_mean"]) == (5, 2 / 5)
    assert found["replay_rarer_class"] == 2, "three answers are satisfied, two are not"
    assert found["replay_max"] in (1, 2)
    assert 0.9999 < found["replay_age_hours"] <= 1


@pytest.mark.parametrize("draws", [True, False])
def test_the_rarer_class_of_the_admitted_answers_is_counted(answered: EncodedRequests, draws: bool) -> None:
    """Of the answers of `REPLIES`, in time order, in steps with and without a draw. Answers of one class are none."""
    replay = replay_of(answered, Replay(answers_per_step=1), ranked=(0, 1, 2))
    found = []
    for until in (100, 300, 400, 600):
        replay.draw(START + until) if draws else replay.skip(START + until)
        found.append((replay.state.admitted, replay.state.rarer_class))
    assert found == [(1, 0), (3, 0), (5, 1), (7, 2)]


def test_a_replay_without_answers_draws_nothing(tmp_path: Path) -> None:
    for requests in (None, read(tmp_path, answered_rows([{}, {}]))):
        replay = replay_of(requests, ALL)
        assert len(replay) == 0
        assert [replay.draw(NEVER) for _ in range(3)] == [None] * 3
        assert replay.state.steps == 3 and replay.state.replays.tolist() == []


def test_shuffling_permutes_answers_among_the_same_candidates(answered: EncodedRequests) -> None:
    """A control: the drawn candidates and the number of answers of each class do not change."""
    plain, replayed, everything = (
        replay_of(answered, Replay(shuffled=shuffled)) for shuffled in ("no", "replayed", "all")
    )
    drawn, dealt = plain.draw(NEVER), replayed.draw(NEVER)
    assert keys(drawn) == keys(dealt)
    assert sorted(codes(drawn)) == sorted(codes(dealt)) and plain.fingerprint != replayed.fingerprint
    assert codes(drawn) != codes(dealt)
    again = everything.draw(NEVER)
    assert (keys(again), codes(again)) == (keys(dealt), codes(dealt)), "both controls replay the same answers"


def test_weights_of_evidence_are_shuffled_only_if_all_answers_are(tmp_path: Path) -> None:
    """Every satisfied candidate is liked and no other one: the log odds ratio of 40 answers, which a shuffle loses."""
    rows = answered_rows([{0: (2 * (number % 2), 100)} for number in range(40)])
    for number, row in enumerate(rows):
        row["candidates"][0]["like"] = number % 2 == 1
    requests = read(tmp_path, rows)
    weights = {}
    for shuffled in ("no", "replayed", "all"):
        replay = replay_of(requests, Replay(shuffled=shuffled), outcomes=("like",), caution=1.64)
        replay.draw(NEVER)
        weights[shuffled] = float(replay.evidence()[0])
    assert weights["no"] == weights["replayed"] == pytest.approx(2 * np.log(20.5 / 0.5))
    assert abs(weights["all"]) < 2


def test_a_replay_continues_after_answers_were_added(tmp_path: Path) -> None:
    """The answers of the next day extend the old ones: admitted answers keep their counts, all others start at zero."""
    old = read(tmp_path / "old", answered_rows(REPLIES))
    # All new answers arrive after the admitted ones; one has the time of the last old answer.
    new = read(tmp_path / "new", answered_rows([*REPLIES, {0: (2, 600), 1: (0, 450)}, {2: (2, 700)}]))
    config, clock = Replay(answers_per_step=3), START + 400
    before = AnswerReplay(old, config, until_ms=START + 500, ranked=(0, 2), slates=False, seed=1)
    for _ in range(3):
        before.draw(clock)
    assert before.state.admitted == 3 and before.state.replays.sum() == 9
    after = AnswerReplay(new, config, until_ms=NEVER, ranked=(0, 2), slates=False, seed=1)
    start = after.continued_from(before, before.state)
    assert (start.admitted, start.steps) == (3, 3)
    assert start.replays[:3].tolist() == before.state.replays.tolist() and not start.replays[3:].any()
    assert len(start.replays) == len(after) == 8
    after.state = start
    after.draw(clock)
    assert after.state.admitted == 3 and after.state.steps == 4
    after.draw(START + 450)
    assert after.state.admitted == 4


def test_a_replay_without_the_admitted_answers_is_refused(tmp_path: Path) -> None:
    config = Replay(answers_per_step=3)
    old = read(tmp_path / "old", answered_rows(REPLIES))
    before = AnswerReplay(old, config, until_ms=NEVER, ranked=(0, 2), slates=True, seed=1)
    before.draw(START + 400)
    fewer = read(tmp_path / "fewer", answered_rows([{}, *REPLIES[1:]]))
    others = read(tmp_path / "others", answered_rows([{0: (0, 500), 2: (2, 300)}, *REPLIES[1:]]))
    for requests in (fewer, others, None):
        after = AnswerReplay(requests, config, until_ms=NEVER, ranked=(0, 2), slates=True, seed=1)
        with pytest.raises(ValueError, match="the 3 answers that training has seen are not the first of the"):
            after.continued_from(before, before.state)
