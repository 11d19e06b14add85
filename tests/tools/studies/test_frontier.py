"""Study `frontier`: its families and cells, its verdict on constructed results, and a run through the real runner."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from easq_rec.config import Config
from easq_rec.config.recipes import recipe
from easq_rec.config.variants import VARIANTS
from easq_rec.errors import UserError
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.command import run as run_study
from easq_rec.tools.studies.comparison import StudyComparison
from easq_rec.tools.studies.families import EASQ, FAMILIES, SATISFACTION_WEIGHTS
from easq_rec.tools.studies.frontier import STUDY, families, study
from easq_rec.tools.studies.grid import ANCHORS, BASE, BY_USER
from easq_rec.tools.studies.options import StudyOptions
from easq_rec.tools.studies.price import Priced
from tests.tools.studies.priced_runs import priced_runs


@pytest.fixture(scope="module")
def base() -> Config:
    return base_config("full")


def test_families_of_a_kind_have_equally_many_points() -> None:
    """A point that costs no training is one of six, a training one of four."""
    for budget, trainings in (("full", 4), ("small", 2)):
        for family in families(budget):  # type: ignore[arg-type]
            assert len(family.weights) == (trainings if family.kind == "trained" else 6), family.name
    for family in FAMILIES.values():
        assert list(family.weights) == sorted(set(family.weights)), family.name
    assert base_config("full").model.satisfaction_weight in SATISFACTION_WEIGHTS


def test_served_families_are_trained_once(base: Config) -> None:
    cells = STUDY.cells(base, [0], "full")
    for family in FAMILIES.values():
        own = family.cells(base)
        assert len(own) == {"served": 1, "added": 0, "trained": 4}[family.kind], family.name
        assert {cell.variant for cell in own} <= {cell.variant for cell in cells}
        if family.kind == "served":
            assert own[0].fuse == family.weights and own[0].config.model.satisfaction is not None, family.name
    (main,) = (cell for cell in cells if cell.variant == BASE)
    assert {addition.partner for addition in main.additions} == {
        *("item_prior", "answer_prior", "answer_effects", "action_ranker"),
        "action_ranker+answer_prior",
    }


def test_trained_families_vary_one_weight(base: Config) -> None:
    """The default of each variant is a point of its family, or its config differs in that weight only."""
    weights = {name: [cell.config for cell in FAMILIES[name].cells(base)] for name in FAMILIES}
    assert [c.losses.dense.weight for c in weights["with_dense"]] == list(FAMILIES["with_dense"].weights)
    assert {c.losses.dense.target for c in weights["half_targets"]} == {"half"}
    assert [c.losses.reward.weight for c in weights["reward_model"]] == list(FAMILIES["reward_model"].weights)
    assert [c.losses.dpo.weight for c in weights["paper"]] == [0.3, 1.0, 3.0, 6.0]
    likes = [{o.name: o.weight_in_training for o in c.schema.outcomes}["like"] for c in weights["label_weights"]]
    assert likes == [1.5, 3.0, 10.0, 30.0]
    for name in ("with_dense", "label_weights", "evidence_on_policy", "reward_model", "direct", "paper"):
        assert VARIANTS[name](base) in weights[name], name


def test_every_point_has_a_row(base: Config) -> None:
    found = StudyComparison(priced_runs(STUDY.cells(base, [0, 1], "full"), lambda name, config: 1.0))
    for family in FAMILIES.values():
        assert all(found.runs(label) for label in family.labels()), family.name
        assert len(Priced.of(found, family.labels()).by_world) == 2


def level(name: str, config: Config) -> float:
    return {EASQ: 6.0, "item_prior": 4.0, "without_any_answers": 2.0}.get(name, 3.0)


def test_the_verdict_compares_easq_with_every_baseline(base: Config) -> None:
    cells = STUDY.cells(base, [0, 1, 2], "full")
    findings = STUDY.conclude(StudyComparison(priced_runs(cells, level)), "full")
    baselines = [family.name for family in FAMILIES.values() if family.role == "baseline"]
    assert findings.verdict.outcome == "holds" and len(findings.verdict.checks) == len(baselines) == 16
    by_name = {check.what.split()[-1]: check.measured for check in findings.verdict.checks}
    assert by_name["item_prior"].value == pytest.approx(2.0, abs=0.4)
    assert by_name["mmoe"].value == pytest.approx(3.0, abs=0.4)
    assert findings.notes[0].startswith("Best baseline at 1%: item_prior, +4")
    (note,) = (note for note in findings.notes if note.startswith("easq less without_any_answers at 1%: "))
    assert float(note.split(": ")[1].split()[0].rstrip("%")) == pytest.approx(4.0, abs=0.4)
    assert set(findings.plots) == {"frontier.png", "frontier-pairs.png"}
    first = findings.extra["prices"]["satisfaction"][0]
    assert first["name"] == EASQ and [one["price"] for one in first["gains"]] == [1.0, 2.0]
    assert first["gains"][1]["gain"]["value"] == pytest.approx(12.0, abs=0.5)
    # A baseline that is as good leaves it undecided; a better one refutes it.
    for rival, outcome in ((6.0, "undecided"), (9.0, "fails")):
        runs = priced_runs(cells, lambda name, config, rival=rival: rival if name == "direct" else level(name, config))
        assert STUDY.conclude(StudyComparison(runs), "full").verdict.outcome == outcome
    # A world without its points decides nothing.
    assert STUDY.conclude(StudyComparison(priced_runs(cells, level)[:1]), "full").verdict.outcome == "undecided"


@pytest.mark.parametrize("name", ["movielens", "kuairand"])
def test_families_that_need_likes_are_left_out_on_other_data(name: str) -> None:
    config = recipe(name)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, path="somewhere"))
    cells = STUDY.cells(config, [0, 1], "full")
    # All seeds rank the same users, so cells keep what each user adds.
    assert all(BY_USER in cell.arguments for cell in cells)
    assert not any("label_weights" in cell.variant or "without_any_answers" in cell.variant for cell in cells)
    assert {addition.partner for cell in cells for addition in cell.additions} == {
        "answer_prior",
        "answer_effects",
    } and len({cell.name for cell in cells}) == len(cells)
    findings = STUDY.conclude(StudyComparison(priced_runs(cells, level)), "full")
    (note,) = (note for note in findings.notes if note.startswith("Left out"))
    liked = {"label_weights", "item_prior", "action_ranker", "action_ranker+answer_prior", "without_any_answers"}
    # Films are watched and rated, and nothing else: these would be `main_only`.
    later = {"evidence_on_policy", "reward_model"} if name == "movielens" else set()
    assert set(note.rstrip(".").split(": ")[1].split(", ")) == liked | later
    assert len(findings.verdict.checks) == 12 - len(later) and findings.verdict.outcome == "holds"


def test_some_families_can_be_chosen(base: Config) -> None:
    """`easq` is always there; it is trained once, and `main_only` with the score that is added to it."""
    chosen = study(["answer_prior", "label_weights"])
    cells = chosen.cells(base, [0], "full")
    assert [cell.variant for cell in cells] == [BASE, EASQ, *(f"label_weights {w:g}" for w in (1.5, 3, 10, 30))]
    assert {addition.partner for addition in cells[0].additions} == {"answer_prior"}
    assert not any(cell.arguments for cell in cells)
    findings = chosen.conclude(StudyComparison(priced_runs(chosen.cells(base, [0, 1, 2], "full"), level)), "full")
    assert len(findings.verdict.checks) == 2 and findings.verdict.outcome == "holds"
    assert findings.extra["prices"]["satisfaction"][0]["name"] == EASQ


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "frontier", "families": ("item_prio",)}, "--families.*some of easq, with_dense"),
        ({"name": "map", "families": ("item_prior",)}, "--families.*only study frontier"),
    ],
)
def test_wrong_families_are_named(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        run_study(StudyOptions(**options, out=tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.integration
def test_the_study_runs_on_world_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = StudyOptions(name="frontier", budget="small", seeds=1, jobs=1, out=out, world_version=2)
    assert run_study(options) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["world_version"] == 2 and "--world-version 2" in results["command"]
    assert (out / "table.md").read_text().startswith("# Study frontier, World 2\n")
    chosen = families("small")
    labels = {row["label"] for row in results["rows"]}
    assert {label for family in chosen for label in family.labels()} < labels and {*ANCHORS} < labels
    for metric in ("satisfaction", "pair_accuracy"):
        found = {one["name"]: one for one in results["prices"][metric]}
        assert set(found) == {family.name for family in chosen}
        assert {one["name"]: len(one["points"]) for one in found.values()} == {
            family.name: len(family.weights) for family in chosen
        }
        assert all(one["gains"][0]["gain"]["value"] >= 0 for one in found.values())
    for name in ("frontier.png", "frontier-pairs.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "| item_prior | baseline |" in capsys.readouterr().out
