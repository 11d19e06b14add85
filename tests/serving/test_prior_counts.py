"""Counts for the item prior, compared with loops over the rows of files as the reader finds them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config import World
from easq_rec.config.answer_scale import FIVE_STARS
from easq_rec.config.recipes import movielens_schema, quickstart, with_world
from easq_rec.config.schema import FeatureSchema, Outcome
from easq_rec.data.dataset import Period, RequestDataset
from easq_rec.serving.item_prior import ItemCounts, ItemPrior
from easq_rec.serving.prior_counts import (
    action_layout,
    actions_of,
    answer_layout,
    count_actions,
    count_answers,
    count_impressions,
    item_layout,
    prior_from,
    prior_of,
)
from easq_rec.tools.simulation.world import generate
from tests.serving.test_item_prior import by_loops, counts_of


def test_a_schema_without_actions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an outcome named like or follow; the schema has long_view"):
        action_layout(movielens_schema())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prior") / "world"
    generate(World(version=2, requests=1_200, users=100, videos=60, density=2_000.0), directory)
    return directory


SCHEMA = with_world(quickstart(), 2).schema


@pytest.mark.parametrize("trigger", ["valid_play", None])
@pytest.mark.parametrize("authors", [True, False], ids=["authors", "no authors"])
def test_a_log_is_counted_row_by_row(world: Path, trigger: str | None, authors: bool) -> None:
    """Only requests of the period, and only triggered candidates, if the schema has a trigger."""
    schema: FeatureSchema = dataclasses.replace(SCHEMA, trigger=trigger)
    if not authors:
        kept = tuple(feature for feature in schema.candidate if feature.column != "author_id")
        schema = dataclasses.replace(schema, candidate=kept)
    assert actions_of(schema) == ["like", "follow"]
    whole = RequestDataset(world / "requests", action_layout(schema))
    times = whole.read_all().timestamp_ms  # type: ignore[union-attr]
    cut = int(np.quantile(times, 0.7))
    dataset = RequestDataset(world / "requests", action_layout(schema), period=Period(start_ms=0, end_ms=cut))
    impressions = []
    for file in sorted((world / "requests").glob("*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["timestamp_ms"] < cut:
                impressions += [
                    (
                        candidate["video_id"],
                        candidate["author_id"] if authors else 0,
                        trigger is None or bool(candidate[trigger]),
                        bool(candidate["like"] or candidate["follow"]),
                    )
                    for candidate in row["candidates"]
                ]
    found, expected = count_actions(dataset), counts_of(impressions)
    for name, column in dataclasses.asdict(expected).items():
        assert getattr(found, name).tolist() == column.tolist(), name
    assert 0 < found.happened_I.sum() < found.shown_I.sum() <= found.impressions_I.sum()
    assert (found.shown_I.sum() == found.impressions_I.sum()) == (trigger is None)
    # The prior of held-out requests in any order.
    held = RequestDataset(world / "requests", item_layout(schema), period=Period(start_ms=cut, end_ms=2**62))
    requests = held.read_all()
    assert requests is not None
    rows = np.random.default_rng(0).permutation(len(requests))[:40]
    prior = ItemPrior(found)
    wanted = []
    for row in rows.tolist():
        part = requests.slice(row, row + 1).candidates
        author_N = part.column("author_id") if authors else np.zeros(len(part.column("video_id")), np.int64)
        wanted += list(zip(part.column("video_id").tolist(), author_N.tolist(), strict=True))
    found_N = prior_of(prior, held, requests.scalars["request_id"][rows])
    assert found_N.tolist() == pytest.approx(by_loops(impressions, wanted), abs=1e-9)


def test_a_schema_may_have_one_of_the_actions() -> None:
    outcomes = (Outcome(name="valid_play", weight=1.0), Outcome(name="follow", weight=1.0))
    schema = dataclasses.replace(SCHEMA, outcomes=outcomes)
    assert actions_of(schema) == ["follow"]
    assert {column.path for column in action_layout(schema).columns} >= {"candidates.follow", "candidates.valid_play"}


def test_answers_are_counted_one_by_one(world: Path) -> None:
    """Only those of the period that arrive before its end. Impressions are those of all requests."""
    times = RequestDataset(world / "requests", item_layout(SCHEMA)).read_all().timestamp_ms  # type: ignore[union-attr]
    cut = int(np.quantile(times, 0.7))
    seen: dict[tuple[int, int], list[float]] = {}
    late = 0
    for folder, place in (("requests", 0), ("answers", 1)):
        for file in sorted((world / folder).glob("*.parquet")):
            for row in pq.read_table(file).to_pylist():
                for candidate in row["candidates"] if row["timestamp_ms"] < cut else ():
                    counts = seen.setdefault((candidate["video_id"], candidate["author_id"]), [0.0, 0.0, 0.0])
                    if not place:
                        counts[0] += 1
                    elif candidate["answer"] is not None and candidate["answered_at_ms"] < cut:
                        counts[1] += 1
                        counts[2] += candidate["answer"] / 2
                    elif candidate["answer"] is not None:
                        late += 1
    assert late, "some answers arrive after the cut"
    period = Period(start_ms=0, end_ms=cut)
    parts = [
        count_impressions(RequestDataset(world / "requests", item_layout(SCHEMA), period=period)),
        count_answers(RequestDataset(world / "answers", answer_layout(SCHEMA), period=period), until_ms=cut),
    ]
    counts = ItemCounts.joined(parts)
    columns = (counts.impressions_I, counts.shown_I, counts.happened_I)
    found = {
        (int(item), int(author)): [float(column[place]) for column in columns]
        for place, (item, author) in enumerate(zip(counts.item_I, counts.author_I, strict=True))
    }
    assert found == seen and 0 < counts.happened_I.sum() < counts.shown_I.sum()
    items = (counts.item_I, counts.author_I)
    whole = prior_from("answers", world, SCHEMA, period, None)
    assert whole(*items).tolist() == ItemPrior(counts)(*items).tolist() and np.ptp(whole(*items)) > 0


def test_five_stars_count_in_equal_steps(tmp_path: Path) -> None:
    scale = FIVE_STARS
    table = pa.table(
        {
            "request_id": [0],
            "user_id": [1],
            "timestamp_ms": [1_700_000_000_000],
            "history": [[{"timestamp_ms": 1_600_000_000_000}]],
            "candidates": [
                [{"video_id": code, "answer": code, "answered_at_ms": 1_700_000_000_001} for code in (1, 2, 4, 5)]
            ],
        }
    )
    pq.write_table(table, tmp_path / "part.parquet")
    kept = tuple(feature for feature in SCHEMA.candidate if feature.column != "author_id")
    schema = dataclasses.replace(SCHEMA, candidate=kept, answers=scale)
    counts = count_answers(RequestDataset(tmp_path, answer_layout(schema)), until_ms=2**62)
    assert counts.happened_I.tolist() == [0.0, 0.25, 0.75, 1.0] and counts.shown_I.tolist() == [1.0] * 4
    assert counts.squared_I.tolist() == [0.0, 0.0625, 0.5625, 1.0]
    assert counts.spread == pytest.approx(np.var([0.0, 0.25, 0.75, 1.0]) / 0.25)


def test_data_without_answers_have_no_prior_of_answers(world: Path, tmp_path: Path) -> None:
    (tmp_path / "requests").symlink_to(world / "requests")
    prior = prior_from("answers", tmp_path, SCHEMA, Period(start_ms=0, end_ms=2**62), None)
    assert prior(np.arange(20), np.arange(20)).tolist() == [0.0] * 20


@pytest.mark.parametrize(("like", "message"), [(0, "0 of the 8 triggered"), (1, "8 of the 8 triggered")])
def test_actions_of_nobody_or_of_everybody_are_refused(like: int, message: str, tmp_path: Path) -> None:
    candidates = [{"video_id": item, "author_id": 0, "valid_play": 1, "like": like, "follow": 0} for item in range(8)]
    table = pa.table(
        {
            "request_id": [0],
            "user_id": [1],
            "timestamp_ms": [1_700_000_000_000],
            "history": [[{"timestamp_ms": 1_600_000_000_000}]],
            "candidates": [candidates],
        }
    )
    pq.write_table(table, tmp_path / "part.parquet")
    with pytest.raises(ValueError, match=message):
        count_actions(RequestDataset(tmp_path, action_layout(SCHEMA)))
