"""Counts of answers equal a loop over all answers that were given before the bucket of the request."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from easq_rec.config.answer_scale import FIVE_STARS, NO_OR_YES, THREE_ANSWERS, AnswerScale
from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, FeatureSchema
from easq_rec.data.count_files import read_counts
from easq_rec.data.count_lookup import CountLookup, missing_counts
from easq_rec.data.dataset import RequestDataset, first_schema
from easq_rec.data.encode import encode
from easq_rec.data.layout import Layout
from easq_rec.errors import UserError
from easq_rec.tools.counts.command import add_counts
from tests.data.builders import SCHEMA, Row, answer_row, write_dataset
from tests.tools.counts.logs import BUCKET, COUNTS, WIDTH, check, ids_of, log_schema, make_log, read_rows, write_log
from tests.tools.counts.reference import Impression, counted

OF_ANSWERS = (
    Count(name="all_answers", of="answer"),
    Count(name="video_answer", of="answer", keys=("video_id",)),
    Count(name="author_answer", of="answer", keys=("author_id",), half_life_h=0.5),
    Count(name="user_tags_answer", of="answer", keys=("user_id", "tags")),
    Count(name="tags_slow_answer", of="answer", keys=("tags",), bucket_minutes=4 * BUCKET),
)
HOURLY = OF_ANSWERS[:-1]
SCALES = {"three answers": THREE_ANSWERS, "five stars": FIVE_STARS, "no or yes": NO_OR_YES}
MEANING = {
    "three answers": {0: 0.0, 1: 0.5, 2: 1.0},
    "five stars": {1: 0.0, 2: 0.0, 3: 0.5, 4: 1.0, 5: 1.0},
    "no or yes": {0: 0.0, 1: 1.0},
}


def schema_of(scale: AnswerScale = THREE_ANSWERS, counts: tuple[Count, ...] = (*COUNTS, *OF_ANSWERS)) -> FeatureSchema:
    """Counts of outcomes and of answers."""
    return with_counts(dataclasses.replace(SCHEMA, count_bucket_minutes=BUCKET, answers=scale), counts)


def answered(rng: np.random.Generator, rows: list[Row], scale: AnswerScale = THREE_ANSWERS) -> list[Row]:
    """A third of the requests with some answers, at most three buckets after the request, often at an edge."""
    found = []
    for row in rows:
        if row["candidates"] and rng.random() < 0.35:
            many = int(rng.integers(1, len(row["candidates"]) + 1))
            replies = {}
            for index in rng.permutation(len(row["candidates"]))[:many]:
                time = row["timestamp_ms"] + int(rng.integers(3 * WIDTH))
                edge = time // WIDTH * WIDTH + int(rng.integers(-1, 2))
                time = edge if rng.random() < 0.4 and edge >= row["timestamp_ms"] else time
                replies[int(index)] = (int(rng.choice(list(scale.codes.values()))), time)
            found.append(answer_row(rng, row, replies))
    return found


def write_answers(directory: Path, rows: list[Row], *, row_group_sizes: list[int] | None = None) -> None:
    write_dataset(directory / "answers", rows, row_group_sizes=row_group_sizes, schema=log_schema(answers=True))


def given(rows: list[Row], meaning: dict[int, float]) -> list[Impression]:
    """All answers, with the times at which they were given."""
    return [
        Impression(
            ids=ids_of(row, candidate),
            known_ms=candidate["answered_at_ms"],
            outcomes={"answer": meaning[candidate["answer"]]},
        )
        for row in rows
        for candidate in row["candidates"]
        if candidate["answer"] is not None
    ]


def check_answers(found: list[Row], rows: list[Row], answers: list[Impression]) -> int:
    """Holds the counts of answers equal to the reference; returns the number of those that are not empty."""
    some = 0
    for row, plain in zip(found, rows, strict=True):
        for candidate in row["candidates"]:
            for count in HOURLY:
                wanted = counted(answers, count, ids_of(plain, candidate), row["timestamp_ms"], BUCKET)
                values = [candidate[count.name][name] for name in ("shown", "happened", "prior")]
                np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-12, err_msg=count.name)
            some += candidate["video_answer"]["shown"] > 0
    return some


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(2))
def test_counts_of_answers_equal_a_loop_over_all_earlier_answers(tmp_path: Path, seed: int, scale: str) -> None:
    """Of `requests/`, of `answers/`, and of another dataset. Counts of outcomes stay as they are without them."""
    rng = np.random.default_rng(seed)
    rows = make_log(rng, 60)
    replies = answered(rng, rows, SCALES[scale])
    others = make_log(np.random.default_rng(seed + 100), 12)
    write_log(tmp_path / "log", rows, row_group_sizes=[7])
    write_answers(tmp_path / "log", replies, row_group_sizes=[3])
    write_dataset(tmp_path / "log" / "random" / "requests", others, schema=log_schema())
    # Answers of another dataset are not counted.
    write_dataset(
        tmp_path / "log" / "random" / "answers", answered(rng, others, SCALES[scale]), schema=log_schema(answers=True)
    )
    add_counts(tmp_path / "log", tmp_path / "out", schema_of(SCALES[scale]))
    every = given(replies, MEANING[scale])
    found = read_rows(tmp_path / "out" / "requests")
    check(found, rows)
    assert check_answers(found, rows, every) > 20
    found = read_rows(tmp_path / "out" / "answers")
    check(found, replies, rows)
    assert check_answers(found, replies, every) > 5
    check_answers(read_rows(tmp_path / "out" / "random" / "requests"), others, every)


def test_counts_of_answers_alone_need_no_outcomes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = make_log(rng, 60)
    replies = answered(rng, rows)
    write_log(tmp_path / "log", rows)
    write_answers(tmp_path / "log", replies)
    add_counts(tmp_path / "log", tmp_path / "out", schema_of(counts=OF_ANSWERS))
    assert check_answers(read_rows(tmp_path / "out" / "requests"), rows, given(replies, MEANING["three answers"])) > 20


def test_an_outcome_may_be_called_answer(tmp_path: Path) -> None:
    """Then `requests/` has a column with this name, which is counted as any other outcome."""
    rng = np.random.default_rng(9)
    rows = make_log(rng, 60)
    replies = answered(rng, rows)
    named = copy.deepcopy(rows)
    for row in named:
        for candidate in row["candidates"]:
            candidate |= {"answer": int(candidate["like"]), "answered_at_ms": None}
    write_dataset(tmp_path / "log" / "requests", named, schema=log_schema(answers=True))
    write_answers(tmp_path / "log", replies)
    twins = tuple(Count(name=f"{name}_{key}", outcome=name, keys=(key,)) for name in ("like", "answer")
                  for key in ("video_id", "author_id"))  # fmt: skip
    add_counts(tmp_path / "log", tmp_path / "out", schema_of(counts=(*twins, *OF_ANSWERS)))
    found = read_rows(tmp_path / "out" / "requests")
    assert check_answers(found, rows, given(replies, MEANING["three answers"])) > 20
    for row in found:
        for candidate in row["candidates"]:
            assert all(candidate[f"like_{key}"] == candidate[f"answer_{key}"] for key in ("video_id", "author_id"))
    assert sum(candidate["answer_video_id"]["happened"] > 0 for row in found for candidate in row["candidates"]) > 20


def test_a_longer_interval_sees_the_last_publication(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows = make_log(rng, 60)
    replies = answered(rng, rows)
    write_log(tmp_path / "log", rows)
    write_answers(tmp_path / "log", replies)
    add_counts(tmp_path / "log", tmp_path / "out", schema_of())
    every, count, some = given(replies, MEANING["three answers"]), OF_ANSWERS[-1], 0
    for row, plain in zip(read_rows(tmp_path / "out" / "requests"), rows, strict=True):
        for candidate in row["candidates"]:
            wanted = counted(every, count, ids_of(plain, candidate), row["timestamp_ms"], 4 * BUCKET)
            values = [candidate[count.name][name] for name in ("shown", "happened", "prior")]
            np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-12)
            some += values[0] > 0
    assert some > 20


@pytest.mark.parametrize(("early_ms", "shown"), [(1, 1), (0, 0), (-1, 0)])
def test_an_answer_at_the_edge_of_a_bucket_counts_from_the_next_one(tmp_path: Path, early_ms: int, shown: int) -> None:
    rng = np.random.default_rng(5)
    first, second = [row for row in make_log(rng, 12) if row["candidates"]][-2:]
    edge = (second["timestamp_ms"] // WIDTH + 50) * WIDTH
    candidate = first["candidates"][0] | {"known_ms": edge}
    rows = [
        {**first, "timestamp_ms": edge - 10, "candidates": [candidate]},
        {**second, "timestamp_ms": edge, "candidates": [candidate]},
    ]
    write_log(tmp_path / "log", rows)
    write_answers(tmp_path / "log", [answer_row(rng, rows[0], {0: (2, edge - early_ms)})])
    add_counts(tmp_path / "log", tmp_path / "out", schema_of())
    found = read_rows(tmp_path / "out" / "requests")
    assert [row["candidates"][0]["video_answer"]["shown"] for row in found] == [0, shown]


def test_later_answers_change_nothing(tmp_path: Path) -> None:
    """Answers that were given in a bucket or later are replaced: the counts of requests in that bucket and before it
    stay the same, bit for bit."""
    rng = np.random.default_rng(6)
    rows = make_log(rng, 60)
    replies = answered(rng, rows)
    now = rows[40]["timestamp_ms"] // WIDTH * WIDTH
    changed = copy.deepcopy(replies)
    late = [c for row in changed for c in row["candidates"] if c["answer"] is not None and c["answered_at_ms"] >= now]
    for candidate in late:
        candidate["answer"] = 2 - candidate["answer"]
    assert len(late) > 5
    outs = []
    for name, found in (("one", replies), ("other", changed)):
        write_log(tmp_path / name, rows)
        write_answers(tmp_path / name, found)
        add_counts(tmp_path / name, tmp_path / f"{name}-out", schema_of())
        outs.append(read_rows(tmp_path / f"{name}-out" / "requests"))
    until = [[row for row in out if row["timestamp_ms"] < now + WIDTH] for out in outs]
    assert until[0] == until[1] and len(until[0]) > 30 and outs[0] != outs[1]


@pytest.mark.parametrize("seed", range(2))
def test_looked_up_counts_equal_those_of_the_pass(tmp_path: Path, seed: int) -> None:
    """The pass runs once with further requests in the bucket after the log, and once without them, for serving."""
    rng = np.random.default_rng(seed)
    rows = make_log(rng, 60)
    replies = answered(rng, rows)
    after = (max(row["timestamp_ms"] for row in rows) // WIDTH + 1) * WIDTH
    later = copy.deepcopy([row for row in rows if row["candidates"]][-8:])
    for number, row in enumerate(later):
        row |= {"request_id": 10**6 + number, "timestamp_ms": after + number}
    for row in [*rows, *later]:
        for candidate in row["candidates"]:
            candidate["known_ms"] = row["timestamp_ms"] if row in later else min(candidate["known_ms"], after - 1)
    schema = schema_of(counts=(*COUNTS[:2], *OF_ANSWERS))
    for name, part in (("with", [*rows, *later]), ("without", rows), ("later", later)):
        write_log(tmp_path / name, part)
        write_answers(tmp_path / name, replies)
    add_counts(tmp_path / "with", tmp_path / "all", schema, holdout=0.0)
    add_counts(tmp_path / "without", tmp_path / "past", schema)
    whole = RequestDataset(tmp_path / "all" / "requests", Layout.of(schema, outcomes=False)).read_all()
    assert whole is not None
    wanted = encode(Layout.of(schema, outcomes=False), whole.slice(len(rows), len(rows) + len(later)))
    bare = tmp_path / "later" / "requests"
    assert missing_counts(schema, first_schema(bare))
    lookup = CountLookup(read_counts(tmp_path / "past" / "counts"), schema, "table")
    layout = lookup.layout(first_schema(bare))
    found = RequestDataset(bare, layout, complete=lookup.complete).read_all()
    assert found is not None
    encoded = encode(layout, found)
    for feature in schema.count_features:
        key = f"feature.{feature.name}"
        np.testing.assert_array_equal(encoded.candidates.column(key), wanted.candidates.column(key), feature.name)
    assert encoded.candidates.column("feature.video_answer")[:, 1].max() > 0


def test_data_without_answers_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "log", make_log(np.random.default_rng(7), 9))
    with pytest.raises(UserError, match=r"log: it has no folder answers/, and the schema counts answers \(all_answers"):
        add_counts(tmp_path / "log", tmp_path / "out", schema_of())
    assert not (tmp_path / "out").exists()
    add_counts(tmp_path / "log", tmp_path / "out", schema_of(counts=COUNTS))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((7, None), r"candidates.answer: found 7, expected null, 0, 1 or 2"),
        ((2, None), r"candidates.answered_at_ms: found null, expected a time at or after the request's timestamp_ms"),
        ((2, -1), r"candidates.answered_at_ms: found \d+, expected a time at or after the request's timestamp_ms"),
    ],
)
def test_a_bad_answer_is_named_with_its_place(tmp_path: Path, reply: tuple[int, int | None], message: str) -> None:
    rng = np.random.default_rng(8)
    rows = [row for row in make_log(rng, 20) if row["candidates"]]
    code, early = reply
    replies = [answer_row(rng, row, {0: (1, row["timestamp_ms"])}) for row in rows[:4]]
    time = None if early is None else rows[4]["timestamp_ms"] + early
    replies.append(answer_row(rng, rows[4], {0: (code, time)}))
    write_log(tmp_path / "log", rows)
    write_answers(tmp_path / "log", replies)
    with pytest.raises(UserError, match=rf"answers.*row group 0, row 4, column {message}"):
        add_counts(tmp_path / "log", tmp_path / "out", schema_of())
