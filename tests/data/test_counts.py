"""The state of counts equals a loop over all earlier impressions, and so does its table after a round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.config.schema import Count
from easq_rec.data.columns import Array, Ragged, offsets_of
from easq_rec.data.count_files import read_counts, write_counts
from easq_rec.data.counts import CountedImpressions, CountState
from easq_rec.data.id_index import IdIndex
from easq_rec.data.published_counts import PublishedCounts
from easq_rec.errors import UserError
from tests.tools.counts.reference import MINUTE_MS, Impression, counted

BUCKET = 30
WIDTH = BUCKET * MINUTE_MS
START_MS = 1_650_000_000_000 // WIDTH * WIDTH
COUNTS = (
    Count(name="all", outcome="like"),
    Count(name="all_fast", outcome="long_view", half_life_h=0.2),
    Count(name="video", outcome="like", keys=("video_id",)),
    Count(name="video_view", outcome="long_view", keys=("video_id",)),
    Count(name="video_day", outcome="like", keys=("video_id",), half_life_h=24.0),
    Count(name="tags", outcome="like", keys=("tags",), half_life_h=3.0),
    Count(name="user_tags", outcome="long_view", keys=("user_id", "tags")),
    Count(name="tags_user_tab", outcome="like", keys=("tags", "user_id", "user.tab"), half_life_h=1.0),
    Count(name="user_tab", outcome="like", keys=("user_id", "user.tab"), half_life_h=0.5),
    Count(name="three", outcome="like", keys=("user.tab", "user_id", "video_id")),
)
HUGE = (2**63 - 1, -(2**63), 2**32, -1, 0)
"""Ids at the limits of int64, and some that would collide if ids were packed."""


def impressions(rng: np.random.Generator, number: int, start_ms: int, end_ms: int) -> list[Impression]:
    def some_id(most: int) -> int:
        return int(rng.choice(HUGE)) if rng.random() < 0.3 else int(rng.integers(most))

    return [
        Impression(
            ids={
                "video_id": some_id(6),
                "user_id": some_id(4),
                "user.tab": int(rng.integers(3)),
                "tags": [some_id(5) for _ in range(rng.integers(4))],
            },
            known_ms=int(rng.integers(start_ms, end_ms)),
            outcomes={"like": float(rng.integers(2)), "long_view": float(rng.choice([0.0, 0.5, 1.0]))},
        )
        for _ in range(number)
    ]


def columns(found: list[Impression]) -> dict[str, Array | Ragged]:
    tags = [np.array(one.ids["tags"], np.int64) for one in found]
    lists = Ragged(
        offsets=offsets_of(np.array([len(t) for t in tags], np.int64)),
        children={"values": np.concatenate([np.zeros(0, np.int64), *tags])},
    )
    plain: dict[str, Array | Ragged] = {
        name: np.array([one.ids[name] for one in found], np.int64) for name in ("video_id", "user_id", "user.tab")
    }
    return plain | {"tags": lists}


def arrays(found: list[Impression]) -> CountedImpressions:
    return CountedImpressions(
        ids=columns(found),
        known_ms=np.array([one.known_ms for one in found], np.int64),
        outcomes={name: np.array([one.outcomes[name] for one in found], np.float32) for name in ("like", "long_view")},
    )


def published(state: CountState) -> PublishedCounts:
    return PublishedCounts(state.counts, (), [state], bucket_minutes=BUCKET, now_ms=state.now_ms)


def check(state: CountState | PublishedCounts, log: list[Impression], candidates: list[Impression], at_ms: int) -> None:
    found = state.lookup(columns(candidates), len(candidates), at_ms)
    assert list(found) == [count.name for count in state.counts]
    for count in state.counts:
        column = found[count.name].column()
        assert column.dtype == np.float32 and column.shape == (len(candidates), 3)
        wanted = [counted(log, count, one.ids, at_ms, BUCKET) for one in candidates]
        np.testing.assert_allclose(column, np.array(wanted).reshape(-1, 3), rtol=1e-6, atol=1e-12, err_msg=count.name)
        assert (column[:, 1] <= column[:, 0]).all(), "the reader refuses it"


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_a_loop_over_all_earlier_impressions(tmp_path: Path, seed: int) -> None:
    """Impressions come bucket by bucket, with gaps, and not in order within what is added together."""
    rng = np.random.default_rng(seed)
    state, log = CountState(COUNTS, BUCKET), list[Impression]()
    check(state, log, impressions(rng, 3, 0, 1), START_MS)
    now = START_MS
    for _ in range(6):
        then, now = now, now + int(rng.integers(1, 40)) * WIDTH
        new = impressions(rng, int(rng.integers(25)), then, now)
        state.add(arrays(new), now)
        log += new
        check(state, log, impressions(rng, 8, 0, 1), now)
        check(state, log, impressions(rng, 2, 0, 1), now + int(rng.integers(5 * WIDTH)))
    check(state, log, [], now)
    write_counts(published(state), tmp_path / "counts")
    again = read_counts(tmp_path / "counts")
    assert (again.counts, again.bucket_minutes, again.now_ms) == (COUNTS, BUCKET, now)
    check(again, log, impressions(rng, 8, 0, 1), now + 1)
    more = impressions(rng, 9, now, now + WIDTH)
    (restored,) = again.states
    restored.add(arrays(more), now + WIDTH)
    check(again, log + more, impressions(rng, 8, 0, 1), now + WIDTH)


def test_one_addition_equals_many() -> None:
    rng = np.random.default_rng(5)
    log = sorted(impressions(rng, 60, START_MS, START_MS + 20 * WIDTH), key=lambda one: one.known_ms)
    now, candidates = START_MS + 20 * WIDTH, impressions(rng, 9, 0, 1)
    state = CountState(COUNTS, BUCKET)
    for bucket in range(1, 21):
        edge = START_MS + bucket * WIDTH
        state.add(arrays([one for one in log if edge - WIDTH <= one.known_ms < edge]), edge)
    check(state, log, candidates, now)
    state = CountState(COUNTS, BUCKET)
    state.add(arrays(log), now)
    check(state, log, candidates, now)


def test_an_impression_counts_half_after_the_half_life() -> None:
    count = Count(name="half", outcome="like", keys=("video_id",), half_life_h=12.0)
    state = CountState([count], BUCKET)
    one = {"video_id": np.array([7])}
    state.add(
        CountedImpressions(ids=one, known_ms=np.array([START_MS]), outcomes={"like": np.array([1.0])}), START_MS + WIDTH
    )
    for halves in range(1, 4):
        found = state.lookup(one, 1, START_MS + 12 * 3_600_000 * halves)["half"]
        assert found.shown_N == found.happened_N == pytest.approx(0.5**halves)
        assert found.prior == pytest.approx((0.5**halves + 0.5) / (0.5**halves + 1))


def test_unknown_ids_have_no_impressions_and_the_overall_rate() -> None:
    rng = np.random.default_rng(6)
    log = impressions(rng, 30, START_MS, START_MS + WIDTH)
    state = CountState(COUNTS, BUCKET)
    state.add(arrays(log), START_MS + WIDTH)
    new = Impression(ids={"video_id": 99, "user_id": 99, "user.tab": 99, "tags": [98, 99]}, known_ms=0, outcomes={})
    known_user = dataclasses.replace(new, ids={**new.ids, "user_id": log[0].ids["user_id"]})
    without_tags = dataclasses.replace(new, ids={**new.ids, "tags": []})
    candidates = [new, known_user, without_tags]
    check(state, log, candidates, START_MS + WIDTH)
    found = state.lookup(columns(candidates), 3, START_MS + WIDTH)
    for name in ("video", "tags", "user_tags", "three"):
        assert not found[name].shown_N.any() and not found[name].happened_N.any()
        assert 0.2 < found[name].prior < 0.8
    overall = sum(one.outcomes["like"] for one in log)
    assert found["video"].prior == pytest.approx((overall + 0.5) / 31)


def test_the_table_has_every_key_once_in_ascending_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    log = impressions(rng, 80, START_MS, START_MS + WIDTH)
    state = CountState(COUNTS, BUCKET)
    state.add(arrays(log), START_MS + WIDTH)
    write_counts(published(state), tmp_path / "counts")
    for count in COUNTS:
        table = pq.read_table(tmp_path / "counts" / f"{count.name}.parquet")
        assert table.column_names == [*count.keys, "shown", "happened"]
        keys = list(zip(*(table[name].to_pylist() for name in count.keys), strict=True)) if count.keys else [()]
        assert keys == sorted(set(keys))
        for key, row in zip(keys, table.to_pylist(), strict=True):
            one: dict[str, Any] = dict(zip(count.keys, key, strict=True))
            shown, happened, _ = counted(log, count, one, state.now_ms, BUCKET)
            assert (row["shown"], row["happened"]) == (pytest.approx(shown), pytest.approx(happened))
            assert row["shown"] > 0


def test_a_request_before_the_counts_is_refused() -> None:
    state = CountState(COUNTS[:1], BUCKET)
    state.add(None, START_MS)
    with pytest.raises(UserError, match=r"these counts begin at .* so they know its future"):
        state.lookup({}, 1, START_MS - 1)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    state = CountState(COUNTS, BUCKET)
    state.add(arrays(impressions(np.random.default_rng(0), 9, START_MS, START_MS + 1)), START_MS + WIDTH)
    write_counts(published(state), tmp_path / "counts")
    for file, content, message in (
        ("counts.json", b"{}", "counts.json is not the description of counts:\n  now_ms: missing"),
        ("video.parquet", b"PAR1", "video.parquet: not a readable Parquet file"),
    ):
        good = (tmp_path / "counts" / file).read_bytes()
        (tmp_path / "counts" / file).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_counts(tmp_path / "counts")
        (tmp_path / "counts" / file).write_bytes(good)
    (tmp_path / "counts" / "video.parquet").write_bytes((tmp_path / "counts" / "all.parquet").read_bytes())
    with pytest.raises(UserError, match=r"video.parquet: has columns \['shown', 'happened'\], expected \['video_id', "):
        read_counts(tmp_path / "counts")


@pytest.mark.parametrize("seed", range(3))
def test_ids_get_one_number_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    index, known = IdIndex(), dict[int, int]()
    for _ in range(60):
        ids = np.concatenate([rng.integers(-500, 500, rng.integers(40)), rng.choice(HUGE, rng.integers(3))]).astype(
            np.int64
        )
        assert index.find(ids).tolist() == [known.get(id_, -1) for id_ in ids.tolist()]
        numbers = index.add(ids).tolist()
        for id_, number in zip(ids.tolist(), numbers, strict=True):
            assert known.setdefault(id_, number) == number
        assert sorted(known.values()) == list(range(len(index)))
        assert index.ids().tolist() == sorted(known, key=lambda id_: known[id_])
    assert len(index._runs) < 8
