"""Behaviour of the variants: gradients under hard sharing, an average as the reference, and limits to steering."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from easq_rec.config import Config, Tower
from easq_rec.config.recipes import recipe
from easq_rec.config.variants import VARIANTS
from easq_rec.losses.answered import answered_pairs
from easq_rec.losses.divergence import bernoulli_kl
from easq_rec.losses.main_bpr import bpr
from easq_rec.losses.pairs import better_pairs, margins, real_pairs
from easq_rec.model.initial import initialise
from easq_rec.model.towers import Experts, MoETower
from easq_rec.training.optim import PATHWAY, parameter_group
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config

SHARING = ("shared_bottom", "mmoe", "ple")
INFORMED = tuple(f"{name}_evidence" for name in SHARING)


def model_of(config: Config) -> TrainingModel:
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    return model


def without_engagement(config: Config) -> Config:
    """The config without L_point. If all outcomes are equal, as in `moved`, L_main has no pairs."""
    return dataclasses.replace(config, losses=config.losses.weighted(pointwise=0.0))


def moved(model: TrainingModel, config: Config) -> set[str]:
    """Parts of the ranker that get a gradient from one batch whose outcomes are all equal."""
    model.zero_grad()
    batch = random_batch(config, requests=8, answered=6)
    model(dataclasses.replace(batch, outcome_NO=torch.zeros_like(batch.outcome_NO)))[0].backward()
    return {
        name.split(".")[1] if name.startswith("ranker.embeddings") else name.split(".")[2]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant: str) -> None:
    """A step gives a finite loss, and every loss with a weight has pairs to learn from."""
    config = small_config(variant)
    loss, output = model_of(config)(random_batch(config, requests=8, answered=6))
    assert loss.isfinite() and float(output.losses["main"]) > 0
    for name, term in config.losses.terms.items():
        if term.weight:
            assert float(output.losses[name].abs()) > 0, name


@pytest.mark.parametrize("variant", [*SHARING, *INFORMED])
def test_under_hard_sharing_the_satisfaction_loss_moves_shared_parameters(variant: str) -> None:
    config = without_engagement(small_config(variant))
    found = moved(model_of(config), config)
    assert {"embeddings", "tokens", "backbone", "satisfaction"} <= found
    assert "main" not in found, "the satisfaction loss moves private gates or experts of the main tower"
    assert ("shared" in found) == (not variant.startswith("shared_bottom"))


@pytest.mark.parametrize("variant", INFORMED)
def test_under_hard_sharing_evidence_moves_shared_parameters(variant: str) -> None:
    """L_evidence alone, as L_satis does. The satisfaction tower has the tables of its own that `easq` has."""
    config = without_engagement(small_config(variant))
    config = dataclasses.replace(config, losses=config.losses.weighted(satisfaction=0.0))
    model = model_of(config)
    own = [name for name, _ in model.named_parameters() if "satisfaction_" in name]
    assert len(own) == len(small_config().schema.satisfaction_tables) > 0
    found = moved(model, config)
    assert {"embeddings", "tokens", "backbone", "satisfaction", "own"} <= found and "main" not in found
    assert ("shared" in found) == (variant != "shared_bottom_evidence")
    moving = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moving.issuperset(own)


def test_the_direct_loss_moves_the_policy_score_and_has_no_reference() -> None:
    config = without_engagement(small_config("direct"))
    model = model_of(config)
    assert moved(model, config) == {"embeddings", "tokens", "backbone", "main"}
    batch = random_batch(config, requests=8, answered=6)
    _, output = model(batch)
    assert output.network.reference is None
    score_A = output.network.main.score_N[batch.answered_A].detach()
    expected, pairs = answered_pairs(score_A, batch.answer_A, score_A, batch.answer_A)
    torch.testing.assert_close(output.losses["direct"], expected / pairs)


def test_evidence_moves_the_policy_score_without_a_reference() -> None:
    """Answers only set the weights of evidence: none is replayed."""
    config = without_engagement(small_config("evidence_on_policy"))
    assert config.aligned and not config.losses.replays_answers and config.model.satisfaction is None
    model = model_of(config)
    assert moved(model, config) == {"embeddings", "tokens", "backbone", "main"}


@pytest.mark.parametrize("variant", ["reward_model", "reward_regression"])
def test_rewards_move_the_policy_score_without_a_reference(variant: str) -> None:
    """Answers only set the rewards: none is replayed, but training needs them."""
    config = without_engagement(small_config(variant))
    assert config.reads_answers and not config.losses.replays_answers and config.model.satisfaction is None
    assert moved(model_of(config), config) == {"embeddings", "tokens", "backbone", "main"}


def test_the_action_ranker_learns_only_actions_and_only_from_triggered_candidates() -> None:
    """Without a trigger, it learns them from all candidates. It is a variant of `main_only`, too."""
    config = recipe("quickstart_action_ranker")
    weights = {outcome.name: outcome.weight_in_training for outcome in config.schema.outcomes}
    assert weights == {"long_view": 0.0, "like": 0.5, "follow": 0.5}
    assert {config.losses.main.among, config.losses.pointwise.among} == {"triggered"}
    assert config.model.satisfaction is None and not config.aligned
    engagement = {outcome.name: outcome.weight for outcome in config.schema.outcomes}
    assert engagement == {outcome.name: outcome.weight for outcome in recipe("quickstart").schema.outcomes}
    again = VARIANTS["action_ranker"](recipe("quickstart_main_only"))
    assert dataclasses.replace(again, recipe="") == dataclasses.replace(config, recipe="")
    base = recipe("quickstart")
    silent = dataclasses.replace(base, schema=dataclasses.replace(base.schema, trigger=None))
    assert VARIANTS["action_ranker"](silent).losses.main.among == "all"
    with pytest.raises(ValueError, match="variant action_ranker needs an outcome named like or follow"):
        recipe("movielens_action_ranker")


@pytest.mark.parametrize("own", [0, 2])
def test_a_tower_combines_shared_and_private_experts(own: int) -> None:
    """Scores and gradients equal those of a loop over the experts."""
    config = Tower(experts=own, hidden=4, out=5)
    shared, tower = Experts(3, 6, config).double(), MoETower(6, config, shared=3).double()
    initialise(shared, seed=0)
    initialise(tower, seed=0)
    excite(tower)
    excite(shared)
    h_ND = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    inputs = (h_ND, *tower.parameters(), *shared.parameters())
    fast, slow = tower(h_ND, shared).score_N, tower.reference(h_ND, shared)
    torch.testing.assert_close(fast, slow)
    for found, expected in zip(
        *(torch.autograd.grad(score.sin().sum(), inputs) for score in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_the_reference_comes_from_an_average_of_the_tower() -> None:
    """Before the first step the average equals the tower.

    Each training step then moves it by the share 1 - `reference_smoothing`. Evaluation does not move it.
    """
    config = small_config()
    config = dataclasses.replace(config, losses=dataclasses.replace(config.losses, reference_smoothing=0.9))
    model = model_of(config)
    network = model.ranker.network
    assert network.satisfaction is not None and network.smoothed is not None
    network.start_average()
    with torch.no_grad():
        for average, current in zip(network.smoothed.parameters(), network.satisfaction.parameters(), strict=True):
            assert torch.equal(average, current)
            current.add_(1.0)
    before = [parameter.clone() for parameter in network.smoothed.parameters()]
    batch = random_batch(config)
    model(batch)[0].backward()
    for average, start in zip(network.smoothed.parameters(), before, strict=True):
        torch.testing.assert_close(average.detach(), start + 0.1)
        assert average.grad is None
    model.eval()
    scores = model.ranker.score(batch)
    plain = network.satisfaction
    network.smoothed = None
    assert scores.satisfaction_N is not None
    assert not torch.allclose(scores.satisfaction_N, model.ranker.score(batch).satisfaction_N)  # type: ignore[arg-type]
    assert network.satisfaction is plain


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "variant",
    ["easq", "with_dpo", "direct", "evidence_on_policy", "reward_model", "reward_regression", "shared_bottom"],
)
def test_losses_of_aligned_steps_are_weighted_by_align_every(variant: str, every: int) -> None:
    """Averaged over all steps, every loss has its weight from the config. L_main and L_point are in every step."""
    config = small_config(variant)
    rare = dataclasses.replace(config, losses=dataclasses.replace(config.losses, align_every=every))
    loss, output = model_of(rare)(random_batch(rare))
    parts = {name: float(value) for name, value in output.losses.items()}
    terms = rare.losses.terms
    weights = {name: (1 if terms[name].every_step else every) * terms[name].weight for name in parts}
    assert len([weight for weight in weights.values() if weight]) > 1
    assert float(loss.detach()) == pytest.approx(
        sum(weight * parts[name] for name, weight in weights.items()), abs=1e-5
    )


@pytest.mark.parametrize(
    "variant",
    ["easq", "with_dpo", "direct", "evidence_on_policy", "reward_model", "shared_bottom", "ple_evidence", "paper"],
)
def test_a_step_that_does_not_align_trains_only_on_engagement(variant: str) -> None:
    """The parameters of `main_only` get the gradients of L_main and L_point. Those of the pathway get no gradient."""
    config = small_config(variant)
    model, alone = model_of(config), model_of(config)
    batch = random_batch(config, answered=0, aligned=False)
    loss, output = model(batch)
    engagement = {name for name, term in config.losses.in_force.items() if term.every_step}
    assert output.losses.keys() == engagement and "main" in engagement
    assert float(loss.detach()) == pytest.approx(sum(float(value) for value in output.losses.values()))
    assert output.network.reference is output.network.answered is output.network.evidence is None
    loss.backward()
    full = alone(random_batch(config, answered=0))[1]
    lists = full.network.candidates
    utility_N = batch.outcome_NO @ alone.comparison.utility_O
    utility_RC, real_RCC = lists.pad(utility_N[:, None]).squeeze(-1), real_pairs(lists.mask())
    better_RCC = better_pairs(utility_RC, real_RCC)
    margin_RCC = margins(lists.pad(full.network.main.score_N[:, None]).squeeze(-1))
    if config.losses.main.pairs == "equal":
        expected = bpr(margin_RCC, better_RCC) / better_RCC.sum()
    else:
        gain_RCC = (utility_RC[:, :, None] - utility_RC[:, None, :]).clamp(min=0) * better_RCC
        expected = bpr(margin_RCC, gain_RCC) / len(utility_N)
    if predicted := full.network.main.outcomes:
        entropy = F.binary_cross_entropy_with_logits(predicted.logit_NO, batch.outcome_NO, reduction="sum")
        expected = expected + entropy / len(utility_N)
    expected.backward()
    resting = {id(parameter) for parameter in model.ranker.network.pathway()}
    for (name, parameter), other in zip(model.named_parameters(), alone.parameters(), strict=True):
        if id(parameter) in resting:
            assert parameter.grad is None, name
        elif other.grad is not None:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, other.grad, msg=name)


@pytest.mark.parametrize("variant", ["everything", "paper", "without_lora", "mmoe", "ple_evidence", "direct"])
def test_the_optimizer_finds_the_pathway_by_name(variant: str) -> None:
    model = model_of(small_config(variant))
    pathway = {id(parameter) for parameter in model.ranker.network.pathway()}
    named = {id(parameter) for name, parameter in model.named_parameters() if parameter_group(f".{name}") in PATHWAY}
    assert pathway == named
    assert bool(pathway) == (variant != "direct")


def test_kl_equals_its_definition() -> None:
    policy, reference = torch.tensor([-3.0, 0.0, 2.0, 40.0]), torch.tensor([1.0, 0.0, -2.0, 39.0])

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    found = bernoulli_kl(policy.double(), reference.double())
    for value, y, s in zip(found.tolist()[:3], policy.tolist(), reference.tolist(), strict=False):
        p, q = sigma(y), sigma(s)
        assert value == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), abs=1e-12)
    assert 0 <= float(found[3]) < 1e-9


@pytest.mark.parametrize("bound", [1e-4, 1e4])
def test_steering_shrinks_with_the_divergence_from_the_reference(bound: float) -> None:
    """Above the bound, L_dense and L_DPO are multiplied by bound / KL. Below the bound they do not change."""
    config = small_config("with_dpo")
    free = model_of(config)
    guarded = model_of(dataclasses.replace(config, losses=dataclasses.replace(config.losses, divergence_bound=bound)))
    batch = random_batch(config)
    _, expected = free(batch)
    _, found = guarded(batch)
    assert expected.divergence is None and found.divergence is not None
    assert found.network.reference is not None
    candidates = batch.stream.candidates
    policy_N, reference_N = found.network.main.score_N.detach(), found.network.reference.score_N
    kl = bernoulli_kl(policy_N[:candidates], reference_N[:candidates]).mean()
    torch.testing.assert_close(found.divergence, kl)
    factor = min(bound / float(kl), 1.0)
    assert factor == 1.0 or factor < 0.1
    for name in expected.losses:
        share = factor if name in ("dpo", "dense") else 1.0
        torch.testing.assert_close(found.losses[name], share * expected.losses[name])
