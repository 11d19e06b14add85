"""Intervals, relative metrics and verdicts, compared with values computed by hand or by SciPy."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import pytest
from scipy import stats

from easq_rec.evaluation.mean_interval import Estimate, t_interval, t_quantile
from easq_rec.tools.studies import stability
from easq_rec.tools.studies.ablation import PARTS
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import STUDIES
from easq_rec.tools.studies.comparison import METRICS, StudyComparison
from easq_rec.tools.studies.grid import Cell, seeded
from easq_rec.tools.studies.lambda2 import shape
from easq_rec.tools.studies.store import Run
from easq_rec.tools.studies.verdict import Check, Verdict


def run(variant: str, seed: int, value: float, *, engagement: float = 0.5, training_seed: int | None = None) -> Run:
    config = seeded(base_config("small"), seed)
    if training_seed is not None:
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, seed=training_seed))
    cell = Cell(variant=variant, series="curve", x=float(seed), config=config)
    metrics = dict.fromkeys(METRICS.values(), value) | {"engagement_ndcg5": engagement}
    return Run(cell=cell, metrics=metrics, seconds=1.0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30, 199])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_t_quantile_equals_that_of_scipy(degrees: int, confidence: float) -> None:
    assert t_quantile(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_the_t_interval_equals_that_of_scipy() -> None:
    values = [0.3, -1.2, 2.5, 0.9, 0.1]
    found = t_interval([*values, math.nan])
    low, high = stats.t.interval(0.95, 4, loc=statistics.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((statistics.mean(values), low, high))
    assert found.count == 5


def test_the_interval_of_one_world_is_unknown() -> None:
    assert t_interval([2.0]) == Estimate(value=2.0, low=-math.inf, high=math.inf, count=1)
    assert t_interval([]).text() == "not measured" and "unknown" in t_interval([2.0]).text()


def test_changes_are_relative_and_paired_by_world() -> None:
    runs = [run("main_only", 0, 0.5), run("main_only", 1, 0.4), run("main_only", 7, 0.9)]
    # +10% and +30%: mean 20, standard deviation sqrt(200), standard error 10; t at one degree of freedom is 12.706.
    runs += [run("easq", 0, 0.55), run("easq", 1, 0.52)]
    found = StudyComparison(runs)
    change = found.change("easq", "satisfaction")
    assert (change.value, change.low, change.high) == pytest.approx((20.0, 20 - 127.062, 20 + 127.062), abs=1e-3)
    assert change.count == 2
    row = next(row for row in found.rows() if row.label == "easq")
    assert row.mean["satisfaction"] == pytest.approx(0.535)
    assert row.change["engagement"].value == 0.0 and row.values()["worlds"] == 2
    assert found.change("absent", "gauc").count == 0


def test_training_seeds_of_one_world_count_once() -> None:
    runs = [run("main_only", 0, 0.5), run("main_only", 1, 0.5)]
    runs += [run("easq", 0, value, training_seed=seed) for seed, value in enumerate((0.5, 0.6))] + [run("easq", 1, 0.6)]
    change = StudyComparison(runs).change("easq", "satisfaction")
    assert change.count == 2 and change.value == pytest.approx((10 + 20) / 2)


def test_fused_serving_is_a_separate_variant() -> None:
    """Fused serving is compared with the base variant, which is served by its policy score."""
    aligned = [run("easq", seed, 0.5) for seed in (0, 1)]
    aligned = [
        dataclasses.replace(one, fused={"0.5": {**one.metrics, "satisfaction_ndcg5": value}})
        for one, value in zip(aligned, (0.55, 0.65), strict=True)
    ]
    found = StudyComparison([run("main_only", 0, 0.5), run("main_only", 1, 0.5), *aligned])
    assert found.labels == ["main_only", "easq", "easq, fused 0.5"]
    assert found.change("easq", "satisfaction").value == 0.0
    assert found.change("easq, fused 0.5", "satisfaction").value == pytest.approx(20.0)


def test_stability_computes_its_measures_from_training_curves() -> None:
    one = dataclasses.replace(
        run("paper", 0, 0.5),
        history={
            "divergence": [(10, 0.1), (20, 0.9), (30, 0.4)],
            "answers_train_margin": [(20, 1.0), (30, 2.0)],
            "answers_holdout_margin": [(20, 0.75), (30, 0.5)],
        },
    )
    other = dataclasses.replace(run("paper", 1, 0.5), history={"divergence": [(10, 0.3), (20, 0.5)]})
    assert stability.course(one, stability.GAP) == [(20, 0.25), (30, 1.5)]
    assert stability.mean_course([one, other], "divergence") == [(10, pytest.approx(0.2)), (20, pytest.approx(0.7))]
    largest = stability.highest([one, other], "divergence")
    assert largest.value == pytest.approx(0.7)
    assert stability.last([one, other], "divergence").value == pytest.approx(0.45)
    check = Check(what="KL", measured=largest, wanted="below", threshold=0.5, unit=" nats")
    assert check.text() == "KL: +0.70 nats [-1.84, +3.24], claimed below +0.5 nats: undecided"


def test_undefined_metrics_are_left_out() -> None:
    runs = [run("main_only", 0, 0.5), run("main_only", 1, math.nan), run("easq", 0, 0.6), run("easq", 1, 0.6)]
    change = StudyComparison(runs).change("easq", "satisfaction")
    assert change.count == 1 and change.value == pytest.approx(20)


@pytest.mark.parametrize(
    ("low", "high", "wanted", "outcome"),
    [
        (1.5, 2.0, "above", "holds"),
        (0.5, 2.0, "above", "undecided"),
        (0.0, 0.5, "above", "fails"),
        (0.0, 0.5, "below", "holds"),
        (1.5, 2.0, "below", "fails"),
        (-math.inf, math.inf, "below", "undecided"),
    ],
)
def test_a_check_is_decided_by_its_whole_interval(low: float, high: float, wanted: str, outcome: str) -> None:
    measured = Estimate(value=(low + high) / 2, low=low, high=high, count=3)
    check = Check(what="x", measured=measured, wanted=wanted, threshold=1.0)  # type: ignore[arg-type]
    assert check.outcome == outcome


def verdict(*outcomes: float) -> Verdict:
    checks = [
        Check(what="x", measured=Estimate(value=v, low=v - 1, high=v + 1, count=3), wanted="above", threshold=0.0)
        for v in outcomes
    ]
    return Verdict(claim="It rises", checks=checks, budget="small")


def test_a_verdict_holds_only_if_all_checks_hold() -> None:
    outcomes: Sequence[tuple[tuple[float, ...], str]] = [
        ((2, 2), "holds"),
        ((2, 0), "undecided"),
        ((2, 0, -2), "fails"),
        ((), "undecided"),
    ]
    for values, outcome in outcomes:
        assert verdict(*values).outcome == outcome
    assert "The budget is small" in verdict(2).text() and verdict(2).values()["remark"] is not None


def test_lambda2_finds_plateau_and_degradation() -> None:
    levels = {"1": 0.50, "2": 0.60, "3": 0.601, "4": 0.55, "5": 0.40}
    noise = (0.0, 0.002, -0.002)
    runs = [run("main_only", seed, 0.5) for seed in range(3)]
    for x, (name, level) in enumerate(levels.items()):
        for seed in range(3):
            # On the plateau, the worlds disagree about which weight is better.
            value = level + (noise[seed] if name == "3" else 0)
            made = run(name, seed, value, engagement=0.5 - 0.01 * x)
            runs.append(dataclasses.replace(made, cell=dataclasses.replace(made.cell, x=float(x + 1))))
    found = StudyComparison(runs)
    curve = [row for row in found.rows() if row.label != "main_only"]
    read = shape(found, curve)
    assert read.best.label == "3" and [row.label for row in read.plateau] == ["2", "3"]
    assert read.degrades is not None and read.degrades.label == "4"
    assert read.costly is not None and read.costly.label == "2"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_concludes_from_incomplete_results(name: str) -> None:
    """A study gives a verdict even if all cells of a variant, or all cells, have failed."""
    study = STUDIES[name]
    cells = study.cells(base_config("small"), [0, 1], "small")
    metrics = dict.fromkeys(METRICS.values(), 0.5)
    runs = [Run(cell=cell, metrics=metrics, seconds=1.0) for cell in cells]
    for kept in (runs, [one for one in runs if one.cell.variant == "main_only"], runs[:1], []):
        findings = study.conclude(StudyComparison(kept), "small")
        assert findings.verdict.outcome in ("holds", "fails", "undecided") and findings.plots
        assert name in ("map", "robustness") or "frontier.png" in findings.plots
        if not kept:
            assert findings.verdict.outcome == "undecided"


def test_names_of_ablations_start_with_their_variant() -> None:
    assert {label.split("_")[0] for label in PARTS} == {"easq", "paper"}
