"""Studies `ab` and `trigger`: their grids, and their conclusions from cells with known metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from easq_rec.config.serialization import from_dict
from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.simulation.models import create_model
from easq_rec.tools.simulation.online import Experiment
from easq_rec.tools.simulation.world import simulate
from easq_rec.tools.studies import ab, comparison, trigger
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.grid import Cell
from easq_rec.tools.studies.online_cell import DAY, WEEK
from easq_rec.tools.studies.questionnaire_stats import rule_of
from easq_rec.tools.studies.store import Run
from easq_rec.tools.studies.verdict import Check

OFFLINE = dict.fromkeys(comparison.METRICS.values(), 0.5)


def ab_runs(stay: Callable[[str, int], float], *, seeds: int = 3) -> list[Run]:
    """Runs in which every weekly metric is 2, except the time in the app."""
    runs = []
    for cell in ab.STUDY.cells(base_config("small"), range(seeds), "small"):
        seed = cell.config.world.seed
        week = {f"{WEEK}{name}": 2.0 for name in ab.METRICS} | {f"{WEEK}stay_s": stay(cell.variant, seed)}
        history = {f"{DAY}{name}": [(0, 1.0 + seed), (1, 3.0 + seed)] for name in ab.COURSES}
        runs.append(Run(cell=cell, metrics=OFFLINE | week, history=history, seconds=1.0))
    return runs


def test_arms_differ_only_as_intended() -> None:
    cells = {cell.variant: cell for cell in ab.STUDY.cells(base_config("full"), [4], "full")}
    assert list(cells) == ["main_only", "main_only, again", "easq", "easq, fused 0.5", "paper"]
    assert all(not cell.config.schema.counts and not cell.config.schema.count_features for cell in cells.values())
    base, again = cells["main_only"].config, cells["main_only, again"].config
    assert again == dataclasses.replace(base, trainer=dataclasses.replace(base.trainer, seed=1_004))
    assert base.trainer.seed == base.world.seed == 4 and len({cell.pair for cell in cells.values()}) == 1
    given = {variant: json.loads(cell.arguments[0]) for variant, cell in cells.items()}
    assert {variant: values["fuse"] for variant, values in given.items() if values["fuse"]} == {"easq, fused 0.5": 0.5}
    assert all(from_dict(Experiment, values["experiment"]) == Experiment() for values in given.values())
    # The digest depends on the served score and on every constant of the dynamics.
    fused, plain = cells["easq, fused 0.5"], cells["easq"]
    assert fused.config == plain.config and fused.digest != plain.digest
    other = Experiment(dynamics=dataclasses.replace(Experiment().dynamics, skip=-0.4))
    changed = dataclasses.replace(plain, arguments=(ab.settings(other, None),))
    assert changed.digest != plain.digest != dataclasses.replace(plain, program="another").digest


def test_the_study_ab_concludes_from_known_metrics() -> None:
    gains = {"main_only": (0, 0, 0), "main_only, again": (0.1, -0.2, 0.05), "easq": (1.0, 1.2, 1.1)}
    found = StudyComparison(ab_runs(lambda variant, seed: (100 + 10 * seed) * (1 + gains[variant][seed] / 100)))
    findings = ab.STUDY.conclude(found, "small")
    checks = findings.verdict.checks
    assert checks[0].measured.value == pytest.approx(1.1) and checks[0].outcome == "holds"
    # LT7 is the same in all arms, so it does not gain the claimed 0.2%.
    assert [check.outcome for check in checks] == ["holds", "fails", "holds", "holds"]
    assert findings.verdict.outcome == "fails" and "around +0%" in findings.verdict.text()
    values = json.loads(json.dumps(findings.extra["ab"], allow_nan=False))
    assert [arm["label"] for arm in values["arms"]] == ["main_only", "main_only, again", "easq"]
    assert values["arms"][0]["metrics"]["stay_s"] == pytest.approx(110)
    assert {one["arm"] for one in values["differences"]} == {"main_only, again", "easq"}
    (stay,) = [one for one in values["differences"] if (one["arm"], one["metric"]) == ("easq", "stay_s")]
    assert stay["against"] == "main_only" and stay["unit"] == "worlds" and stay["change"]["count"] == 3
    assert stay["change"]["value"] == pytest.approx(1.1) and stay["change"]["low"] < 1.1 < stay["change"]["high"]
    assert values["days"]["easq"]["active"] == [2.0, 4.0]
    assert "| easq |" in findings.tables[0] and "+1.10%" in findings.tables[0]
    assert set(findings.plots) == {"ab.png", "days.png", "frontier.png"}


def test_a_difference_between_two_base_arms_is_detected() -> None:
    gains = {"main_only": (0, 0, 0), "main_only, again": (1.0, 1.2, 1.1), "easq": (3.0, 3.1, 2.9)}
    found = StudyComparison(ab_runs(lambda variant, seed: 100 + gains[variant][seed]))
    assert [check.outcome for check in ab.STUDY.conclude(found, "small").verdict.checks][2] == "fails"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-1.0, 1.0, "holds"),
        (0.0, 1.0, "holds"),
        (0.1, 1.0, "fails"),
        (-1.0, -0.1, "fails"),
        (-math.inf, math.inf, "undecided"),
    ],
)
def test_around_a_threshold_means_that_the_interval_includes_it(low: float, high: float, outcome: str) -> None:
    measured = Estimate(value=(low + high) / 2, low=low, high=high, count=3)
    assert Check(what="x", measured=measured, wanted="around", threshold=0.0).outcome == outcome


def test_rules_vary_one_threshold_at_a_time_on_the_same_requests() -> None:
    cells = trigger.STUDY.cells(base_config("full"), [0], "full")
    assert [cell.variant for cell in cells if "easq" not in cell.variant] == ["main_only"]
    worlds = [cell.config.world for cell in cells if cell.variant != "main_only"]
    rules = [(world.trigger_watch_s, world.trigger_progress) for world in worlds]
    assert len(set(rules)) == 8 and all(progress == 0.5 or watch_s == 7.0 for watch_s, progress in rules)
    assert {world.response_progress for world in worlds} == {trigger.READINESS}
    assert len({cell.pair for cell in cells}) == 1
    assert all(world.shown_rate < 1 for world in worlds), (
        "with a shown_rate of 1, rules cannot show equally many prompts"
    )


def test_rules_show_equally_many_prompts() -> None:
    cells = trigger.STUDY.cells(base_config("full"), [0], "full")
    shown = []
    for cell in cells[1:4]:
        world = dataclasses.replace(cell.config.world, requests=6_000)
        model = create_model(world)
        log = list(simulate(model))
        share = np.mean([part.shown.mean() for part in log])
        rule = rule_of(world)
        triggered = [rule.triggered(part.watch_ms, model.latents.duration_ms[part.video]).mean() for part in log]
        assert trigger.triggered_shares(world, [(world.trigger_watch_s, world.trigger_progress)])[0] == pytest.approx(
            np.mean(triggered), abs=0.02
        )
        shown.append(share)
    assert shown == pytest.approx([shown[0]] * 3, rel=0.03)


def test_the_rule_of_the_paper_is_compared_with_the_best_other_rule() -> None:
    def run(cell: Cell, seed: int) -> Run:
        level = {"main_only": 0.40, "easq, 7 s or 0.5": 0.44, "easq, 0 s or 0.5": 0.45}[cell.variant]
        asked = {f"{trigger.PREFIX}{name}": 1.0 + seed for name in trigger.COLUMNS}
        metrics = OFFLINE | {"satisfaction_ndcg5": level + 0.001 * seed}
        return Run(cell=cell, metrics=metrics | (asked if cell.variant != "main_only" else {}), seconds=1.0)

    cells = trigger.STUDY.cells(base_config("small"), [0, 1, 2], "small")
    findings = trigger.STUDY.conclude(StudyComparison([run(cell, cell.config.world.seed) for cell in cells]), "small")
    (check,) = findings.verdict.checks
    assert check.what.endswith("against easq, 0 s or 0.5") and check.outcome == "fails"
    assert check.measured.value == pytest.approx(-2.22, abs=0.01)
    settings = json.loads(json.dumps(findings.extra["settings"], allow_nan=False))
    assert [setting["watch_s"] for setting in settings] == [7.0, 0.0]
    assert settings[1]["satisfaction_change_percent"] == pytest.approx(12.5, abs=0.1)
    assert settings[0]["response_percent"] == pytest.approx(2.0) and "| easq, 0 s or 0.5 |" in findings.tables[0]
