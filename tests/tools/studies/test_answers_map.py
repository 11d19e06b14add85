"""Study `map`: its grid, what is shared between densities, its verdict on constructed results, and a real run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from easq_rec.config import Config, World
from easq_rec.config.recipes import with_world
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.world import simulate
from easq_rec.tools.studies.answers_map import FOLLOWS, GRIDS, METHODS, STUDY, families, places, reads_answers, world_at
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import run as run_study
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.map_view import Map
from easq_rec.tools.studies.options import StudyOptions
from easq_rec.tools.studies.partner import ACTION_RANKER_AND_ANSWERS, ANSWER_PRIOR
from tests.tools.studies.priced_runs import LOG_ODDS, priced_runs


def test_the_grids_are_worlds() -> None:
    """World refuses shares that sum to more than 1. Follows keep their proportion to likes."""
    for grid in GRIDS.values():
        for slope, share in grid.settings():
            world = world_at(World(version=2), slope, share, grid.densities[-1])
            assert world.follow_slope / world.like_slope == pytest.approx(FOLLOWS)
            assert world.item_share + world.user_share + world.taste_share <= 1
    assert world_at(World(version=2), 1.3, 0.16, 1.0).follow_slope == World(version=2).follow_slope
    assert {budget: len(grid.settings()) * len(grid.densities) for budget, grid in GRIDS.items()} == {
        "small": 2,
        "full": 12,
        "large": 27,
    }


def test_methods_that_read_no_answers_are_trained_once_per_world() -> None:
    base = with_world(base_config("full"), 2)
    reading = {family.name for family in families("full") if reads_answers(family, base)}
    assert reading == {EASQ, ANSWER_PRIOR, ACTION_RANKER_AND_ANSWERS, "shared_bottom", "shared_bottom_evidence"}
    cells = STUDY.cells(base_config("full"), [0], "full")
    settings, densities = len(GRIDS["full"].settings()), len(GRIDS["full"].densities)
    counts = Counter(cell.variant.rsplit(" ", 1)[0] for cell in cells)
    assert counts == {
        # Trained for each density, too: scores that count answers are added to it.
        BASE: (1 + densities) * settings,
        "label_weights": 4 * settings,
        "without_any_answers": settings,
        EASQ: densities * settings,
        "shared_bottom": densities * settings,
        "shared_bottom_evidence": densities * settings,
    }
    added = {addition.partner for cell in cells if "answers" not in cell.setting for addition in cell.additions}
    assert added == {"item_prior", "action_ranker"}
    # All densities of a world have its base.
    for cell in cells:
        if cell.variant == EASQ:
            bases = [one for one in cells if one.variant == BASE and one.pair == cell.pair]
            assert len(bases) == 1 + densities
            assert {one.config.world.like_slope for one in bases} == {cell.config.world.like_slope}
            own = next(one for one in bases if one.setting == cell.setting)
            assert {addition.partner for addition in own.additions} == {ANSWER_PRIOR, ACTION_RANKER_AND_ANSWERS}


def test_densities_have_the_same_requests() -> None:
    world = World(version=2, requests=400, users=50, videos=100, history=5)
    logs = [list(simulate(create_model(world_at(world, 1.3, 0.16, density)))) for density in (10.0, 1_000.0)]
    answers = 0
    for one, other in zip(*logs, strict=True):
        for name in ("video", "watch_ms", "like", "follow", "true_satisfaction"):
            assert (getattr(one, name) == getattr(other, name)).all(), name
        answers += int((other.answer != one.answer).sum())
    assert answers > 50


def level(name: str, config: Config) -> float:
    """`easq` gains with the number of answers, others with likes and with the share of the video."""
    world = config.world
    return {
        EASQ: math.log10(world.density) + 1,
        "item_prior": 6 * world.item_share,
        "label_weights": 3 * world.like_slope,
    }.get(name, 0.5)


def test_places_say_what_wins_and_by_how_much() -> None:
    cells = STUDY.cells(base_config("full"), [0, 1, 2], "full")
    runs = priced_runs(cells, level)
    found = {
        (place.like_slope, place.item_share, place.density): place for place in places(StudyComparison(runs), "full")
    }
    assert len(found) == 12 and all(set(place.gains) == set(METHODS) for place in found.values())
    few, many = found[1.3, 0.05, 10.0], found[0.2, 0.4, 1_000.0]
    assert few.winner == few.other == "label_weights" and few.lead.value == pytest.approx(2 - 3.9, abs=0.3)
    assert many.winner == EASQ and many.other == "item_prior" and many.lead.value == pytest.approx(1.6, abs=0.3)
    assert few.sure and many.sure and many.lead.count == 3
    assert many.answers == 20_000 and many.like_log_odds == pytest.approx(LOG_ODDS * 0.2)
    # The questionnaire of the densest world measures the log odds of them all.
    assert few.like_log_odds == pytest.approx(LOG_ODDS * 1.3)
    findings = STUDY.conclude(StudyComparison(runs), "full")
    assert findings.verdict.outcome == "holds" and len(findings.verdict.checks) == 2
    assert len(findings.extra["map"]) == 12 and "map.png" in findings.plots
    drawn = Map.of(list(found.values()))
    assert list(drawn.panels) == ["200 answers", "2,000 answers", "20,000 answers"]
    assert drawn.rows == ["0.34", "2.21"] and drawn.columns == ["0.05", "0.4"]
    assert drawn.panels["20,000 answers"][0][1].lines[-1] == EASQ
    beaten = priced_runs(cells, lambda name, config: 9.0 if name == "shared_bottom" else level(name, config))
    assert STUDY.conclude(StudyComparison(beaten), "full").verdict.outcome == "fails"


def test_where_nothing_gains_main_only_wins() -> None:
    runs = priced_runs(STUDY.cells(base_config("small"), [0, 1], "small"), lambda name, config: -5.0)
    assert {place.winner for place in places(StudyComparison(runs), "small")} == {BASE}
    kept = [one for one in runs if one.cell.variant != EASQ]
    missing = places(StudyComparison(kept), "small")
    assert all(place.lead.count == 0 and math.isnan(place.answers) for place in missing)
    assert Map.of(missing).rows == ["nan"]
    assert dataclasses.asdict(missing[0])["lead"]["count"] == 0


@pytest.mark.slow
@pytest.mark.integration
def test_the_study_runs_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_study(StudyOptions(name="map", budget="small", seeds=1, first_seed=3, jobs=1, out=out)) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["seeds"] == [3] and "--first-seed 3" in results["command"]
    cells = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
    assert {cell["world_seed"] for cell in cells} == {3}
    assert results["world_version"] == 2 and len(results["map"]) == 2 and not results["failed"]
    sparse, dense = (next(p for p in results["map"] if p["density"] == d) for d in (300.0, 1_000.0))
    assert 0 < 2 * sparse["answers"] < dense["answers"] and sparse["like_log_odds"] == dense["like_log_odds"]
    assert all(set(place["gains"]) == set(METHODS) for place in results["map"])
    # One log of requests for both densities: the same result of what reads no answers.
    assert sparse["gains"]["item_prior"] == dense["gains"]["item_prior"]
    assert sparse["gains"]["answer_prior"] != dense["gains"]["answer_prior"]
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG") and "| like slope |" in (out / "table.md").read_text()
