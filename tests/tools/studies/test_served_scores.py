"""Cells that also rank by their policy score plus the score of a partner: real runs of a few steps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easq_rec.config import Config
from easq_rec.config.serialization import to_dict
from easq_rec.config.variants import VARIANTS
from easq_rec.data.dataset import RequestDataset, split
from easq_rec.evaluation.metrics import ranking_metrics
from easq_rec.evaluation.predict import Predictions
from easq_rec.run_directory.config_file import load_config
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.serving.evaluate import held_out, predictions_of, rank_with
from easq_rec.serving.prior_counts import PriorOf, item_layout, prior_from, prior_of
from easq_rec.serving.score import load_served
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.tools.simulation.world import generate
from easq_rec.tools.studies.base import base_config
from easq_rec.tools.studies.cell import main
from easq_rec.tools.studies.grid import BY_USER, grid
from easq_rec.tools.studies.partner import Addition
from easq_rec.tools.studies.store import write_json
from easq_rec.tools.studies.user_metrics import NAMES, POLICY, UserMetrics
from easq_rec.training import session

SERVED = (
    *("item_prior=0", "item_prior=0.3", "answer_prior=0.3", "answer_effects=0.3"),
    *("action_ranker=0", "action_ranker=0.5", "action_ranker=1e+09"),
    "action_ranker+answer_prior=0.5",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """`main_only` of the small budget, on a world that is already there."""
    config = base_config("small")
    directory = tmp_path_factory.mktemp("served") / "world"
    generate(config.world, directory)
    return VARIANTS["main_only"](
        dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(directory)))
    )


@pytest.fixture(scope="module")
def run_dir(base: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell that has run."""
    directory = tmp_path_factory.mktemp("cell")
    run_dir = directory / "run"
    write_json(directory / "run.json", to_dict(dataclasses.replace(base, run_dir=str(run_dir))))
    assert main(str(directory / "run.json"), [BY_USER, *SERVED]) == 0
    return run_dir


@pytest.fixture(scope="module")
def fused(run_dir: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(RunDirectory(run_dir).fused.read_text())
    return found


def predicted(config: Config) -> Predictions:
    run_dir, directory = Path(str(config.run_dir)), str(config.data.path)
    ranker = load_served(config, run_dir, None)
    return predictions_of(ranker, config, run_dir, directory, held_out(config, directory))


def metrics_of(found: Predictions, served_N: torch.Tensor) -> dict[str, float]:
    ranked = ranking_metrics(served_N, found.truth_N, found.utility_N, found.lengths_R, found.user_R)
    return dataclasses.asdict(ranked)


def final(run_dir: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in RunDirectory(run_dir).metrics.read_text().splitlines()]
    (line,) = (line for line in lines if line["split"] == "final")
    return line


def test_a_weight_of_zero_ranks_by_the_policy_score(run_dir: Path, fused: dict[str, dict[str, float]]) -> None:
    assert list(fused) == list(SERVED)
    for text in ("item_prior=0", "action_ranker=0"):
        for name in NAMES:
            assert fused[text][name] == pytest.approx(final(run_dir)[name], abs=1e-6), (text, name)


@pytest.mark.parametrize(
    ("partner", "of"), [("item_prior", "actions"), ("answer_prior", "answers"), ("answer_effects", "answer_effects")]
)
def test_a_prior_is_added_to_the_policy_score(
    partner: str, of: PriorOf, run_dir: Path, fused: dict[str, dict[str, float]]
) -> None:
    """Counts come from the training period alone."""
    config = load_config(run_dir)
    requests = f"{config.data.path}/requests"
    training, held = split(requests, config.data.holdout)
    prior = prior_from(of, str(config.data.path), config.schema, training, None)
    found = predicted(config)
    ranked = RequestDataset(requests, item_layout(config.schema), period=held)
    prior_N = prior_of(prior, ranked, found.request_id_R.numpy())
    expected = metrics_of(found, found.main_N.double() + 0.3 * torch.from_numpy(prior_N))
    for name in NAMES:
        assert fused[f"{partner}=0.3"][name] == pytest.approx(expected[name]), name
        assert fused[f"{partner}=0.3"][name] != pytest.approx(final(run_dir)[name]), name


def test_the_second_ranker_is_trained_and_added(
    base: Config, run_dir: Path, fused: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    """It equals a run of its variant. With an enormous weight only its score counts."""
    beside = run_dir / "action_ranker"
    stored = load_config(beside)
    assert stored.recipe == "action_ranker" and not RunDirectory(beside).checkpoints.exists()
    assert [outcome.weight_in_training for outcome in stored.schema.outcomes] == [0.0, 0.5, 0.5]
    for name in NAMES:
        assert fused["action_ranker=1e+09"][name] == pytest.approx(final(beside)[name], abs=1e-6), name
    second = dataclasses.replace(VARIANTS["action_ranker"](base), run_dir=str(tmp_path / "again"))
    assert session.train(second, prepare_data) == 0
    one, two = predicted(load_config(run_dir)), predicted(second)
    z_N = [(x.main_N.double() - x.main_N.double().mean()) / x.main_N.double().std(correction=0) for x in (one, two)]
    expected = metrics_of(one, z_N[0] + 0.5 * z_N[1])
    again = dataclasses.asdict(rank_with(load_config(run_dir), [0.5], second=second)[0.5].metrics())
    for name in NAMES:
        assert fused["action_ranker=0.5"][name] == pytest.approx(expected[name]) == pytest.approx(again[name]), name
        assert fused["action_ranker=0.5"][name] != pytest.approx(final(run_dir)[name]), name
    # Both at once: the same weight for the second ranker and for the average answer.
    directory = str(base.data.path)
    training, held = split(f"{directory}/requests", base.data.holdout)
    prior = prior_from("answers", directory, base.schema, training, None)
    ranked = RequestDataset(f"{directory}/requests", item_layout(base.schema), period=held)
    prior_N = torch.from_numpy(prior_of(prior, ranked, one.request_id_R.numpy()))
    expected = metrics_of(one, z_N[0] + 0.5 * (z_N[1] + prior_N))
    for name in NAMES:
        assert fused["action_ranker+answer_prior=0.5"][name] == pytest.approx(expected[name]), name
        assert fused["action_ranker+answer_prior=0.5"][name] != fused["action_ranker=0.5"][name], name


def test_the_sums_of_users_give_the_metrics(run_dir: Path, fused: dict[str, dict[str, float]]) -> None:
    """Of the policy score, and of every other served score."""
    sums = UserMetrics.load(RunDirectory(run_dir).user_metrics)
    assert list(sums.sums) == [POLICY, *SERVED] and len(sums.user_U) > 100
    for served, (top_UM, bottom_UM) in sums.sums.items():
        expected = final(run_dir) if served == POLICY else fused[served]
        metrics = top_UM.sum(0) / bottom_UM.sum(0)
        assert metrics.tolist() == pytest.approx([expected[name] for name in NAMES], abs=1e-6), served


def test_additions_are_part_of_a_cell() -> None:
    """Their texts are arguments of its program. They change its digest, and cells without any keep theirs."""
    base = base_config("small")
    plain, other = (
        grid({"main_only": base}, [0], additions=additions)[0]
        for additions in (None, {"main_only": (Addition(partner="item_prior", weight=0.25),)})
    )
    assert plain.digest != other.digest and [str(addition) for addition in other.additions] == ["item_prior=0.25"]
    assert Addition.read("action_ranker=0.5") == Addition(partner="action_ranker", weight=0.5)
    assert Addition.read("0.5") is None
    both = Addition(partner="action_ranker+answer_prior", weight=0.5)
    assert (both.variant, both.prior) == ("action_ranker", "answer_prior") and Addition.read(str(both)) == both
    one, prior = (Addition(partner=name, weight=1.0) for name in ("action_ranker", "answer_prior"))
    assert (one.variant, one.prior, prior.variant, prior.prior) == ("action_ranker", None, None, "answer_prior")
    for wrong in ("item_prio", "action_ranker+item_prio", "item_prior+answer_prior", "+answer_prior"):
        with pytest.raises(AssertionError, match=wrong.replace("+", r"\+")):
            Addition(partner=wrong, weight=1.0)
