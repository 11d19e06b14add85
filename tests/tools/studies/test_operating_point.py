"""Study `operating-point`: its world, its order, its verdict on constructed results, and a real run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import run as run_study
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ
from easq_rec.tools.studies.grid import BASE
from easq_rec.tools.studies.operating_point import (
    ADMITTED,
    METHODS,
    RARER,
    SCALE,
    STUDY,
    begin_of_steering,
    scaled,
)
from easq_rec.tools.studies.options import StudyOptions
from tests.tools.studies.priced_runs import priced_runs


def test_the_world_is_the_papers_operating_point() -> None:
    base = base_config("full", world_version=2)
    config = scaled(base, SCALE["full"], density=1.0)
    world = config.world
    assert world.requests == 1_000_000 and world.requests // world.users == base.world.requests // base.world.users
    assert world.answer_rate == pytest.approx(1e-4) and world.version == 2
    # About a third of the twelve candidates of a request trigger the questionnaire.
    assert 200 < world.requests * world.candidates * world.answer_rate / 3 < 500
    assert not config.data.shuffle and config.trainer.epochs == 1
    rows = {table.name: table.rows for table in config.schema.tables}
    assert (rows["user"], rows["video"]) == (world.users, world.videos)
    # Otherwise the ranker is that of the other studies.
    assert (config.model, config.losses, config.optim) == (base.model, base.losses, base.optim)
    assert [f.name for f in config.schema.candidate] == [f.name for f in base.schema.candidate]


def test_methods_are_compared_on_the_same_world() -> None:
    cells = STUDY.cells(base_config("full"), [0, 1], "full")
    assert len({cell.pair for cell in cells}) == 2
    variants = [cell.variant for cell in cells if cell.world_seed == 0]
    assert variants == [BASE, EASQ, "label_weights 3", "label_weights 10", "without_any_answers"]
    (easq,) = (cell for cell in cells if cell.variant == EASQ and cell.world_seed == 0)
    assert easq.keep == (ADMITTED, RARER) and len(easq.fuse) == 6


def test_the_notes_say_when_steering_began() -> None:
    cells = STUDY.cells(base_config("full"), [0, 1, 2], "full")
    runs = []
    for run in priced_runs(cells, lambda name, config: 6.0 if name == EASQ else 3.0):
        if run.cell.variant == EASQ:
            counts = {0: [2, 9, 11, 80], 1: [2, 5, 7, 9], 2: []}[run.cell.training_seed]
            course = [(100 * (place + 1), float(count)) for place, count in enumerate(counts)]
            run = dataclasses.replace(run, history={RARER: course, ADMITTED: [(step, 4 * n) for step, n in course]})
        runs.append(run)
    assert [begin_of_steering(run) for run in runs if run.cell.variant == EASQ] == [0.75, None, None]
    findings = STUDY.conclude(StudyComparison(runs), "full")
    assert findings.verdict.outcome == "holds" and len(findings.verdict.checks) == len(METHODS)
    assert findings.notes[:3] == [
        "world 0: 320 answers in training; the satisfaction score counts after 75% of the training.",
        "world 1: 36 answers in training; the satisfaction score counts never.",
        "world 2: no answers in training; the satisfaction score counts never.",
    ]


@pytest.mark.slow
@pytest.mark.integration
def test_the_study_runs_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = StudyOptions(name="operating-point", budget="small", seeds=1, jobs=1, out=out, world_version=2)
    assert run_study(options) == 0
    results = json.loads((out / "results.json").read_text())
    assert not results["failed"] and {one["name"] for one in results["prices"]["satisfaction"]} == set(METHODS)
    assert " answers in training" in results["notes"][0]
    (cell,) = (json.loads(file.read_text()) for file in (out / "cells").glob("easq--*.json"))
    assert cell["config"]["data"]["shuffle"] is False
    for name in ("frontier.png", "frontier-pairs.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
