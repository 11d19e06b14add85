"""Counts with different intervals, frozen counts, and ranges of numbers equal a loop over earlier impressions."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from easq_rec.cli.main import main
from easq_rec.config import Data
from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, FeatureSchema, NumberRange
from easq_rec.config.schema_file import schema_to_toml
from easq_rec.data.count_files import read_counts
from easq_rec.errors import UserError
from easq_rec.tools.counts.command import add_counts
from tests.data.builders import SCHEMA, Row
from tests.tools.counts.logs import (
    BUCKET,
    START_MS,
    WIDTH,
    ids_of,
    impressions,
    make_log,
    read_rows,
    serving_ids,
    write_log,
)
from tests.tools.counts.reference import MINUTE_MS, counted

EDGES = (20_000.0, 50_000.0)
COUNTS = (
    Count(name="video", outcome="long_view", keys=("video_id",), half_life_h=2.0),
    Count(name="video_rare", outcome="long_view", keys=("video_id",), half_life_h=2.0, bucket_minutes=5 * BUCKET),
    Count(name="user", outcome="like", keys=("user_id",), frozen=True),
    Count(name="user_live", outcome="like", keys=("user_id",)),
    Count(name="user_fast", outcome="long_view", keys=("user_id",), half_life_h=1.0, frozen=True),
    Count(name="user_rare", outcome="like", keys=("user_id",), bucket_minutes=3 * BUCKET, frozen=True),
    Count(name="length_region", outcome="like", keys=("length", "user.region")),
    Count(name="age", outcome="like", keys=("age_range",)),
)
RANGES = (
    NumberRange(name="length", column="duration_ms", edges=EDGES),
    NumberRange(name="age_range", column="user.age", edges=(18.0, 40.0)),
)
COUNTED = with_counts(dataclasses.replace(SCHEMA, count_bucket_minutes=BUCKET, count_ranges=RANGES), COUNTS)
FROZEN = [count.name for count in COUNTS if count.frozen]


def log_of(rng: np.random.Generator, number: int) -> list[Row]:
    """A log with lengths at the edges of their ranges."""
    rows = make_log(rng, number)
    for row in rows:
        for candidate in row["candidates"]:
            candidate["duration_ms"] = int(rng.choice([1, 19_999, 20_000, 35_000, 50_000, 90_000]))
    return rows


def published(directory: Path, out: Path, schema: FeatureSchema = COUNTED, **options: object) -> list[Row]:
    add_counts(directory, out, schema, **options)  # type: ignore[arg-type]
    return read_rows(out / "requests")


def with_ranges(row: Row, ids: Row, candidate: Row) -> Row:
    """The ids with the numbers of the ranges."""
    length = sum(candidate["duration_ms"] >= edge for edge in EDGES)
    return {**ids, "length": length, "age_range": sum(row["user"]["age"] >= edge for edge in (18, 40))}


def wanted(rows: list[Row], row: Row, candidate: Row, count: Count, frozen_ms: list[int]) -> tuple[float, ...]:
    """By the slow reference: the log up to the publication that a request sees, decayed to the request's bucket."""
    width = (count.bucket_minutes or BUCKET) * MINUTE_MS
    bucket = row["timestamp_ms"] // width
    frozen = [ms // width for ms in frozen_ms if count.frozen and ms // WIDTH <= row["timestamp_ms"] // WIDTH]
    entries = iter(impressions(rows))
    log = [
        dataclasses.replace(entry, ids=with_ranges(one, entry.ids, entered))
        for one in rows
        for entered in one["candidates"]
        if (entry := next(entries)).known_ms // width < (frozen[-1] if frozen else bucket)
    ]
    ids = with_ranges(row, ids_of(row, candidate), candidate)
    return counted(log, count, ids, row["timestamp_ms"], count.bucket_minutes or BUCKET)


def check(found: list[Row], rows: list[Row], frozen_ms: list[int]) -> None:
    for row, plain in zip(found, rows, strict=True):
        for candidate, bare in zip(row["candidates"], plain["candidates"], strict=True):
            for count in COUNTS:
                values = [candidate[count.name][name] for name in ("shown", "happened", "prior")]
                expected = wanted(rows, plain, bare, count, frozen_ms)
                np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-12, err_msg=count.name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("times", [0, 1, 2])
def test_counts_are_those_of_their_last_publication(tmp_path: Path, seed: int, times: int) -> None:
    """Nothing frozen, frozen once, and frozen a second time: then the second publication counts."""
    rows = log_of(np.random.default_rng(seed), 45)
    span = rows[-1]["timestamp_ms"] - START_MS
    frozen_ms = [START_MS + int(share * span) for share in (0.4, 0.7)][:times]
    directory = write_log(tmp_path / "log", rows, row_group_sizes=[8])
    found = published(directory, tmp_path / "out", frozen_after_ms=frozen_ms)
    check(found, rows, frozen_ms)
    live = [candidate["user_live"]["shown"] for row in found for candidate in row["candidates"]]
    frozen = [candidate["user"]["shown"] for row in found for candidate in row["candidates"]]
    assert (live != frozen) == bool(times)


def test_the_holdout_freezes_at_its_beginning(tmp_path: Path) -> None:
    rows = log_of(np.random.default_rng(3), 40)
    directory, first, last = write_log(tmp_path / "log", rows), rows[0]["timestamp_ms"], rows[-1]["timestamp_ms"]
    for number, share in enumerate((Data.holdout, 0.5)):
        found = published(directory, tmp_path / str(number), holdout=share)
        check(found, rows, [round(first + (1 - share) * (last - first))])
    check(published(directory, tmp_path / "none", holdout=0.0), rows, [])
    assert published(directory, tmp_path / "default") == read_rows(tmp_path / "0" / "requests")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_from_after_the_freezing_is_in_frozen_counts(tmp_path: Path, seed: int) -> None:
    """All outcomes that were known at the time of the freezing or later are replaced. Every request has the same
    frozen counts as before, bit for bit. Those of requests up to then, of any count, are the same, too."""
    rows = log_of(np.random.default_rng(seed + 10), 40)
    now = rows[20]["timestamp_ms"]
    planted = copy.deepcopy(rows)
    for row in planted:
        for candidate in row["candidates"]:
            # Counts by interval were published at the beginning of the bucket, or earlier.
            if candidate["known_ms"] >= now // WIDTH * WIDTH:
                candidate |= {"like": not candidate["like"], "long_view": 1 - candidate["long_view"]}
    one = published(write_log(tmp_path / "one", rows), tmp_path / "one-out", frozen_after_ms=[now])
    other = published(write_log(tmp_path / "other", planted), tmp_path / "other-out", frozen_after_ms=[now])
    differs = False
    for row, same in zip(one, other, strict=True):
        for candidate, twin in zip(row["candidates"], same["candidates"], strict=True):
            names = FROZEN if row["timestamp_ms"] >= now else [count.name for count in COUNTS]
            assert {name: candidate[name] for name in names} == {name: twin[name] for name in names}
            differs |= candidate["user_live"] != twin["user_live"]
    assert differs, "the planted future is not in the counts that go on, so this test could not fail"


def test_serving_gets_what_happened_since_the_freezing(tmp_path: Path) -> None:
    """The published table is not frozen: it is for the requests after the log."""
    rows = log_of(np.random.default_rng(5), 40)
    extra = copy.deepcopy(next(row for row in rows if len(row["candidates"]) > 1))
    at_ms = (max(row["timestamp_ms"] for row in rows) // WIDTH + 1) * WIDTH
    extra |= {"request_id": 10**6, "timestamp_ms": at_ms}
    for candidate in extra["candidates"]:
        candidate["known_ms"] = at_ms
    published(write_log(tmp_path / "log", rows), tmp_path / "out", frozen_after_ms=[rows[10]["timestamp_ms"]])
    table = read_counts(tmp_path / "out" / "counts")
    assert (table.counts, table.ranges, table.now_ms) == (COUNTS, RANGES, at_ms)
    ids = serving_ids(extra)
    more = [with_ranges(extra, {}, candidate) for candidate in extra["candidates"]]
    ids |= {key: np.array([one[key] for one in more]) for key in ("length", "age_range")}
    found = table.lookup(ids, len(extra["candidates"]), at_ms + 1)
    assert list(found) == [count.name for count in COUNTS]
    for count in COUNTS:
        expected = [wanted([*rows, extra], extra, candidate, count, []) for candidate in extra["candidates"]]
        np.testing.assert_allclose(found[count.name].column(), np.array(expected), rtol=1e-5, err_msg=count.name)


def test_the_command_takes_the_time_of_freezing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = log_of(np.random.default_rng(6), 30)
    directory = str(write_log(tmp_path / "log", rows))
    (tmp_path / "schema.toml").write_text(schema_to_toml(COUNTED))
    base = ["data", "counts", directory, "--schema", str(tmp_path / "schema.toml"), "--out"]
    times = [rows[10]["timestamp_ms"], rows[20]["timestamp_ms"]]
    assert not main([*base, str(tmp_path / "a"), "--frozen-after", *map(str, times)])
    out = capsys.readouterr().out
    assert "user_rare: by user_id, overall rate" in out and ", every 60 minutes, frozen" in out
    assert f"UTC ({times[1]})" in out
    check(read_rows(tmp_path / "a" / "requests"), rows, times)
    assert not main([*base, str(tmp_path / "b"), "--holdout", "0.5"])
    span = rows[-1]["timestamp_ms"] - rows[0]["timestamp_ms"]
    check(read_rows(tmp_path / "b" / "requests"), rows, [round(rows[0]["timestamp_ms"] + 0.5 * span)])
    for words, message in (
        (["--holdout", "0.5", "--frozen-after", "7"], "--holdout=0.5 is not allowed: left out, since --frozen-after"),
        (["--holdout", "1"], "--holdout=1.0 is not allowed: from 0 to less than 1"),
    ):
        assert main([*base, str(tmp_path / "c"), *words]) == 2
        assert message in capsys.readouterr().err
    plain = dataclasses.replace(COUNTED, counts=tuple(dataclasses.replace(one, frozen=False) for one in COUNTS))
    with pytest.raises(UserError, match="--frozen-after: no count of the schema has frozen = true"):
        published(Path(directory), tmp_path / "d", plain, frozen_after_ms=[7])
