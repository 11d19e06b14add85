"""Rows of a random order and of the truth: the held-out requests of trained cells, and the metrics of plain loops."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from easq_rec.config import Config
from easq_rec.config.recipes import with_world
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.serialization import to_dict
from easq_rec.data.dataset import split
from easq_rec.errors import UserError
from easq_rec.run_directory.metrics_file import final_record
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.truth import truth
from easq_rec.tools.simulation.world import generate
from easq_rec.tools.studies.anchor_cell import anchor_metrics, main
from easq_rec.tools.studies.anchors import DATA, WORLD, anchor_cells
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import STUDIES
from easq_rec.tools.studies.comparison import METRICS, StudyComparison
from easq_rec.tools.studies.grid import ANCHORS, BASE, ENGAGING, RANDOM, SATISFYING
from easq_rec.tools.studies.plots import changes, families
from easq_rec.tools.studies.store import Run


@pytest.fixture(scope="module", params=[1, 2])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Config of a small world of both versions, with its data."""
    out = tmp_path_factory.mktemp("anchors") / "world"
    config = with_world(base_config("small"), request.param)
    config = dataclasses.replace(config, world=dataclasses.replace(config.world, requests=300))
    generate(config.world, out)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(out)))


def held_out_rows(config: Config) -> list[dict[str, Any]]:
    folder = Path(str(config.data.path)) / "requests"
    _, period = split(str(folder), config.data.holdout)
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]
    return [row for row in rows if period.start_ms <= row["timestamp_ms"] < period.end_ms]


def ndcg5(gain: list[float], score: np.ndarray) -> float:
    """Of one request whose scores have no ties."""

    def dcg(order: np.ndarray) -> float:
        return sum(gain[place] / math.log2(rank + 2) for rank, place in enumerate(order[:5]))

    best = dcg(np.argsort(-np.array(gain), kind="stable"))
    return dcg(np.argsort(-score, kind="stable")) / best if best else math.nan


def utility(schema: FeatureSchema, candidate: dict[str, Any]) -> float:
    return sum(outcome.weight * candidate[outcome.name] for outcome in schema.outcomes)


def by_the_truth(config: Config, rows: list[dict[str, Any]]) -> Any:
    users, times = (np.array([row[name] for row in rows]) for name in ("user_id", "timestamp_ms"))
    videos = np.array([[candidate["video_id"] for candidate in row["candidates"]] for row in rows])
    weights = {outcome.name: outcome.weight for outcome in config.schema.outcomes}
    return truth(create_model(config.world), users, videos, times, weights)


@pytest.mark.parametrize("name", [SATISFYING, ENGAGING])
def test_an_oracle_equals_a_loop_over_the_held_out_requests(world: Config, name: str) -> None:
    rows = held_out_rows(world)
    expected = by_the_truth(world, rows)
    scores = expected.satisfaction if name == SATISFYING else expected.utility
    satisfaction = [[2 ** one["true_satisfaction"] - 1 for one in row["candidates"]] for row in rows]
    engagement = [[utility(world.schema, one) for one in row["candidates"]] for row in rows]
    found = anchor_metrics(world, name, WORLD)
    for key, gains in (("satisfaction_ndcg5", satisfaction), ("engagement_ndcg5", engagement)):
        wanted = np.nanmean([ndcg5(gain, score) for gain, score in zip(gains, scores, strict=True)])
        assert getattr(found, key) == pytest.approx(wanted, abs=1e-6), key


def test_oracles_are_best_at_what_they_know(world: Config) -> None:
    found = {name: anchor_metrics(world, name, WORLD) for name in ANCHORS}
    # Grades are cut from the satisfaction that the oracle ranks by.
    assert found[SATISFYING].satisfaction_ndcg5 == pytest.approx(1.0)
    assert found[SATISFYING].pair_accuracy == pytest.approx(1.0)
    assert found[ENGAGING].engagement_ndcg5 > found[SATISFYING].engagement_ndcg5 > found[RANDOM].engagement_ndcg5
    assert found[ENGAGING].gauc > found[SATISFYING].gauc and found[ENGAGING].satisfaction_ndcg5 < 1


def test_random_is_the_mean_over_random_orders(world: Config) -> None:
    rows = held_out_rows(world)
    rng = np.random.default_rng(0)
    gains = [[2 ** one["true_satisfaction"] - 1 for one in row["candidates"]] for row in rows]
    drawn = [np.mean([ndcg5(gain, rng.random(len(gain))) for gain in gains]) for _ in range(100)]
    found = anchor_metrics(world, RANDOM, WORLD)
    assert found.satisfaction_ndcg5 == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 10)
    assert found.pair_accuracy == pytest.approx(0.5) and found.gauc == pytest.approx(0.5)


def test_a_data_set_has_the_truth_that_its_files_have(world: Config) -> None:
    of_data = anchor_metrics(world, SATISFYING, DATA)
    assert of_data.satisfaction_ndcg5 == pytest.approx(1.0)
    assert anchor_metrics(world, RANDOM, DATA) == anchor_metrics(world, RANDOM, WORLD)
    with pytest.raises(UserError, match="no truth to rank by for oracle of engagement"):
        anchor_metrics(world, ENGAGING, DATA)
    untold = dataclasses.replace(world, evaluation=dataclasses.replace(world.evaluation, satisfaction="stars"))
    with pytest.raises(UserError, match="no truth to rank by for oracle of satisfaction"):
        anchor_metrics(untold, SATISFYING, DATA)
    [cell] = [cell for cell in STUDIES["rank"].cells(untold, [0], "small") if cell.variant == BASE]
    assert [one.variant for one in anchor_cells([cell])] == [RANDOM]
    [cell] = [cell for cell in STUDIES["rank"].cells(world, [0], "small") if cell.variant == BASE]
    assert [(one.variant, one.arguments) for one in anchor_cells([cell])] == [
        (RANDOM, (RANDOM, DATA)),
        (SATISFYING, (SATISFYING, DATA)),
    ]


def test_the_program_writes_final_metrics(world: Config, tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(to_dict(dataclasses.replace(world, run_dir=str(tmp_path / "run")))))
    assert main([str(path), SATISFYING, WORLD]) == 0
    final = final_record(tmp_path / "run" / "metrics.jsonl")
    assert final is not None and final.values["satisfaction_ndcg5"] == pytest.approx(1.0)
    assert set(METRICS.values()) <= set(final.values)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_has_anchors_for_each_of_its_worlds(name: str) -> None:
    cells = STUDIES[name].cells(base_config("small"), [0, 1], "small")
    anchors = anchor_cells(cells)
    bases = {cell.pair for cell in cells if cell.variant == BASE}
    assert len(anchors) == 3 * len(bases) and {cell.pair for cell in cells} == {cell.pair for cell in anchors}
    names = [cell.name for cell in (*cells, *anchors)]
    assert len(set(names)) == len(names)
    assert len({cell.digest for cell in anchors}) == len(anchors)


def test_tables_have_the_anchors_and_figures_do_not() -> None:
    cells = STUDIES["rank"].cells(base_config("small"), [0, 1], "small")
    runs = [
        Run(cell=cell, metrics=dict.fromkeys(METRICS.values(), 0.5 + 0.1 * (cell.variant != BASE)), seconds=1.0)
        for cell in (*cells, *anchor_cells(cells))
    ]
    found = StudyComparison(runs)
    rows = found.rows()
    assert [row.label for row in rows[-3:]] == list(ANCHORS)
    assert rows[-1].change["satisfaction"].value == pytest.approx(20.0) and rows[-1].change["satisfaction"].count == 2
    assert not {*ANCHORS} & {*found.labels, *changes(rows)[0], *(family.name for family in families(rows))}
    # A study concludes from the same rows.
    assert (
        STUDIES["rank"].conclude(found, "small").verdict.outcome
        == STUDIES["rank"]
        .conclude(StudyComparison([one for one in runs if one.cell.variant not in ANCHORS]), "small")
        .verdict.outcome
    )
