"""Counts in the synthetic worlds: they equal a recount, and the recipes of the worlds read them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easq_rec.config import Data, World
from easq_rec.config.counts import DURATION_CLASS, with_usual_counts
from easq_rec.config.recipes import quickstart, recipe, with_world, world_schema
from easq_rec.config.schema import Count
from easq_rec.data.count_files import FOLDER, counts_beside, read_counts
from easq_rec.data.count_lookup import check_declarations
from easq_rec.data.dataset import RequestDataset, split
from easq_rec.data.layout import Layout
from easq_rec.tools.counts.command import add_counts
from easq_rec.tools.simulation import world

HOUR_MS = 3_600_000
WORLDS = [
    World(version=version, requests=400, users=25, videos=60, candidates=5, density=3_000.0, days=2.0, seed=3)
    for version in (1, 2)
]


def read(folder: Path) -> list[dict[str, Any]]:
    parts = [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]
    rows: list[dict[str, Any]] = pa.concat_tables(parts).to_pylist()
    return rows


def ids(count: Count, row: dict[str, Any], candidate: dict[str, Any]) -> list[tuple[int, ...]]:
    """The combinations of ids of a candidate; one for each tag, if tags are a key."""
    found: list[tuple[int, ...]] = [()]
    for key in count.keys:
        match key:
            case "tags":
                values = candidate["tags"]
            case "user_id":
                values = [row["user_id"]]
            case "duration_class":
                values = [sum(candidate["duration_ms"] >= edge for edge in DURATION_CLASS.edges)]
            case _:
                values = [candidate[key]]
        found = [(*first, value) for first in found for value in values]
    return found


LEVELS = {0: 0.0, 1: 0.5, 2: 1.0}
"""How satisfied an answer is, by its code."""


@pytest.mark.parametrize("config", WORLDS, ids=["world 1", "world 2"])
def test_counts_equal_a_recount_of_the_log(config: World, tmp_path: Path) -> None:
    """A candidate's count has the impressions that were over before the hour of its request, or the answers that had
    arrived."""
    world.generate(config, tmp_path / "world")
    requests, answers = (read(tmp_path / "world" / name) for name in ("requests", "answers"))
    _, held_out = split(str(tmp_path / "world" / "requests"), Data.holdout)
    schema = world.counted_schema(config.version)
    # Counts begin with an hour: nothing that a request of this hour does is in them.
    frozen_ms = held_out.start_ms // HOUR_MS * HOUR_MS
    known = [(row, row["timestamp_ms"] + sum(one["watch_ms"] for one in row["candidates"])) for row in requests]
    asked = [(row, one) for row in answers for one in row["candidates"] if one["answer"] in LEVELS]
    compared = Counter[str]()
    for row in [*requests[::23], *requests[-3:], *answers[::9], answers[-1]]:
        for count in schema.counts:
            hour_ms = row["timestamp_ms"] // HOUR_MS * HOUR_MS
            limit_ms = min(hour_ms, frozen_ms) if count.frozen else hour_ms
            if count.of == "answer":
                past = [
                    (seen, LEVELS[candidate["answer"]])
                    for one, candidate in asked
                    if candidate["answered_at_ms"] < limit_ms
                    for seen in ids(count, one, candidate)
                ]
            else:
                past = [
                    (seen, candidate[count.outcome])
                    for one, known_ms in known
                    if known_ms < limit_ms
                    for candidate in one["candidates"]
                    for seen in ids(count, one, candidate)
                ]
            for candidate in row["candidates"]:
                mine = ids(count, row, candidate)
                found = candidate[count.name]
                matching = [happened for seen, happened in past if seen in mine]
                assert found["shown"] == pytest.approx(len(matching) / len(mine)), (count.name, row["timestamp_ms"])
                assert found["happened"] == pytest.approx(sum(matching) / len(mine)), count.name
                compared[count.of] += found["shown"] > 0
    assert compared["outcome"] > 1_000 and compared["answer"] > 10


@pytest.mark.parametrize("config", WORLDS, ids=["world 1", "world 2"])
def test_counts_are_those_that_the_command_adds(config: World, tmp_path: Path) -> None:
    world.generate(config, tmp_path / "counted")
    world.generate(config, tmp_path / "plain", counts=False)
    assert world.COUNTS == FOLDER and not (tmp_path / "plain" / "counts").exists()
    assert "video_like" not in read(tmp_path / "plain" / "requests")[0]["candidates"][0]
    schema = with_world(quickstart(), config.version).schema
    add_counts(str(tmp_path / "plain"), tmp_path / "again", schema)
    files = sorted(path.relative_to(tmp_path / "counted") for path in (tmp_path / "counted").rglob("*.*"))
    assert len(files) == 3 + len(schema.counts) + 1
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "counted" / file).read_bytes(), file


@pytest.mark.parametrize("config", WORLDS, ids=["world 1", "world 2"])
def test_recipes_of_the_worlds_read_the_counts(config: World, tmp_path: Path) -> None:
    world.generate(config, tmp_path)
    for name in ("quickstart", "main_only", "quickstart_action_ranker", "quickstart_paper_counts"):
        schema = with_world(recipe(name), config.version).schema
        assert counts_beside(str(tmp_path), schema) is not None
        check_declarations(read_counts(tmp_path / "counts"), schema, "the world")
        columns = RequestDataset(str(tmp_path / "requests"), Layout.of(schema)).read_all()
        assert columns is not None
        column = columns.candidates.column("user_tags_long_view")
        assert column.shape == (config.requests * config.candidates, 3) and column[:, 0].max() > 1


def test_a_schema_without_counts_reads_the_same_from_both(tmp_path: Path) -> None:
    world.generate(WORLDS[0], tmp_path / "counted")
    world.generate(WORLDS[0], tmp_path / "plain", counts=False)
    layout = Layout.of(world_schema(users=25, videos=60, dim=4, version=1))
    found, plain = (
        RequestDataset(str(tmp_path / name / "requests"), layout).read_all() for name in ("counted", "plain")
    )
    assert found is not None and plain is not None
    assert found.candidates.children.keys() == plain.candidates.children.keys()
    for name in plain.candidates.children.keys() - {"tags"}:
        assert (found.candidates.column(name) == plain.candidates.column(name)).all()


def test_a_world_without_counts_is_not_taken_for_one_with_counts(tmp_path: Path) -> None:
    world.generate(WORLDS[0], tmp_path / "counted")
    world.generate(WORLDS[0], tmp_path / "plain", counts=False)
    assert world.is_complete(WORLDS[0], tmp_path / "plain", counts=False)
    with pytest.raises(ValueError, match=r"plain' has this world without counts: delete it or choose another"):
        world.ensure(WORLDS[0], tmp_path / "plain")
    with pytest.raises(ValueError, match=r"counted' has this world with counts: delete it or choose another"):
        world.generate(WORLDS[0], tmp_path / "counted", counts=False)


def test_a_world_that_lacks_a_count_is_not_complete(tmp_path: Path) -> None:
    """Such as one of an earlier version, which counted no answers."""
    world.generate(WORLDS[0], tmp_path / "w")
    (tmp_path / "w" / "counts" / "author_answer.parquet").unlink()
    with pytest.raises(ValueError, match=r"w' has this world without the count author_answer: delete it or choose"):
        world.ensure(WORLDS[0], tmp_path / "w")


@pytest.mark.parametrize("version", [1, 2])
def test_all_outcomes_of_the_version_are_counted(version: int) -> None:
    schema = world.counted_schema(version)  # type: ignore[arg-type]
    assert schema == with_usual_counts(schema)
    counted = {count.outcome for count in schema.counts if count.of == "outcome"}
    assert counted == {outcome.name for outcome in schema.outcomes}
    assert all(count.frozen == ("user_id" in count.keys) for count in schema.counts)
