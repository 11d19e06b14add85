"""Initial weights depend on seed and name, can be computed in parts, and follow the laws of their modules."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from easq_rec.config import LoRA, Tower
from easq_rec.config.recipes import RECIPES
from easq_rec.model.initial import Constant, Law, Normal, Uniform, initialise, values
from easq_rec.model.lora import AdaptedLinear
from easq_rec.model.ranker import Ranker
from easq_rec.model.towers import Experts
from tests.builders import small_config

TOWER = Tower(experts=30, hidden=300, out=30)
UNIFORM = [-0.9469828009605408, 0.8862209320068359, 0.7362428307533264]
NORMAL = [-1.1368962526321411, 1.8297587633132935, 1.6098695993423462]


def weights(recipe: str, *, seed: int = 0) -> dict[str, torch.Tensor]:
    config = small_config(recipe)
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, seed=seed))
    return Ranker(config, torch.device("cpu")).state_dict()


@pytest.mark.parametrize("law", [Uniform(0.3), Normal(0.05)])
@pytest.mark.parametrize("width", [1, 3, 4, 70_000])
def test_a_part_of_the_rows_equals_the_rows_of_the_whole(law: Law, width: int) -> None:
    whole = values(law, 7, "table", (11, width))
    for rows in (slice(0, 11), slice(0, 1), slice(3, 4), slice(5, 11)):
        assert torch.equal(values(law, 7, "table", (11, width), rows=rows), whole[rows])
    assert values(law, 7, "table", (0, width)).shape == (0, width)
    assert not torch.equal(values(law, 8, "table", (11, width)), whole)
    assert not torch.equal(values(law, 7, "other", (11, width)), whole)


def test_values_follow_their_law() -> None:
    uniform, normal = values(Uniform(0.3), 0, "w", (400_000,)), values(Normal(0.05), 0, "w", (400_000,))
    assert uniform.abs().max() <= 0.3 and float(uniform.std()) == pytest.approx(0.3 / math.sqrt(3), rel=0.01)
    assert float(normal.std()) == pytest.approx(0.05, rel=0.01) and normal.abs().max() <= 0.05 * math.sqrt(12)
    # A normal distribution has 68.3% within one and 95.4% within two standard deviations.
    assert [float((normal.abs() < 0.05 * k).double().mean()) for k in (1, 2)] == pytest.approx([0.683, 0.954], abs=0.02)
    for found in (uniform, normal):
        assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))
        assert abs(float((found[1:] * found[:-1]).mean() / found.var())) < 4 / math.sqrt(len(found))
    assert (values(Constant(2.5), 0, "w", (3, 2)) == 2.5).all()


def test_initial_values_are_pinned() -> None:
    """A change of the first values of these parameters means that every run has other initial weights."""
    assert values(Uniform(1.0), 0, "w", (3,)).tolist() == UNIFORM
    assert values(Normal(1.0), 0, "w", (3,)).tolist() == NORMAL


def test_bounds_are_those_of_torch() -> None:
    linear, adapted, experts = nn.Linear(40, 500), AdaptedLinear(40, 500, LoRA(rank=50)), Experts(30, 40, TOWER)
    for module in (linear, adapted, experts):
        initialise(module, seed=0)
    assert adapted.lora_a is not None and adapted.lora_b is not None
    for found, draw in (
        (linear.weight, lambda x: nn.init.kaiming_uniform_(x, a=math.sqrt(5))),
        (adapted.weight, nn.init.xavier_uniform_),
        (adapted.lora_a, lambda x: nn.init.kaiming_uniform_(x, a=math.sqrt(5))),
        (experts.in_KHD[0], lambda x: nn.init.kaiming_uniform_(x, nonlinearity="relu")),
        (experts.out_KOH[0], nn.init.xavier_uniform_),
    ):
        expected = draw(torch.empty(found.shape)).abs().max()
        assert float(found.detach().abs().max()) == pytest.approx(float(expected), rel=0.02)
    assert not adapted.bias.any() and not adapted.lora_b.any() and not experts.in_KH.any() and linear.bias.any()


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_of_the_same_name_start_equal_in_every_variant(name: str) -> None:
    one, other = weights("everything"), weights(name)
    shared = [key for key in one.keys() & other.keys() if one[key].shape == other[key].shape]
    assert "network.tokens.candidate.weight" in shared and len(shared) > 20
    scale = small_config(name).model.table_std / small_config().model.table_std
    for key in shared:
        if key.startswith("embeddings."):
            torch.testing.assert_close(scale * one[key], other[key], rtol=1e-6 if scale != 1 else 0, atol=0)
        else:
            assert torch.equal(one[key], other[key]), key


def test_weights_depend_on_the_seed_and_not_on_the_random_state_of_torch() -> None:
    torch.manual_seed(1)
    one = weights("everything", seed=3)
    torch.manual_seed(2)
    again, other = weights("everything", seed=3), weights("everything", seed=4)
    assert all(torch.equal(value, again[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items() if key.endswith("user_feature_UD"))


def test_the_average_of_the_satisfaction_tower_starts_equal_to_the_tower() -> None:
    config = small_config()
    config = dataclasses.replace(config, losses=dataclasses.replace(config.losses, reference_smoothing=0.9))
    network = Ranker(config, torch.device("cpu")).network
    assert network.smoothed is not None and network.satisfaction is not None
    for average, current in zip(network.smoothed.parameters(), network.satisfaction.parameters(), strict=True):
        assert torch.equal(average, current)


def test_a_parameter_without_a_law_is_refused() -> None:
    module = nn.Module()
    module.free = nn.Parameter(torch.empty(3))
    with pytest.raises(AssertionError, match="free has no law"):
        initialise(module, seed=0)
