"""A router reads standardised inputs, and each of its gates is open for the wanted share of the candidates."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from easq_rec.config import Tower
from easq_rec.model.initial import initialise
from easq_rec.model.router import EPSILON, MEMORY, RATE, Router
from easq_rec.model.towers import MoETower

DIM, EXPERTS = 8, 5
NO = torch.zeros(())


def router(activity: float = 0.5) -> Router:
    module = Router(DIM, EXPERTS, activity)
    initialise(module, seed=0)
    return module


def collapsed(generator: torch.Generator, step: int, count: int = 400) -> Tensor:
    """Skewed representations whose common part is much larger than their differences, and moves."""
    common_D = 5 * torch.cos(torch.arange(DIM) + 0.001 * step)
    return common_D + 0.05 * torch.randn(count, DIM, generator=generator).exp()


def test_outputs_equal_their_definition() -> None:
    """Mean and variance are those of all candidates so far, whose weight falls by a tenth per update."""
    generator = torch.Generator().manual_seed(0)
    module, batches = router(), []
    for step, count in enumerate((30, 1, 50)):
        n_ND = collapsed(generator, step, count)
        module.update(module.sums(n_ND, module(n_ND)), NO)
        batches.append(n_ND.double())
    n_ND = collapsed(generator, 3)
    # It starts as if it had seen one candidate of mean 0 and variance 1.
    weights = [(MEMORY ** len(batches), torch.zeros(DIM), torch.ones(DIM))]
    weights += [(MEMORY ** (len(batches) - 1 - age), x, x**2) for age, one in enumerate(batches) for x in one]
    total = sum(weight for weight, _, _ in weights)
    mean_D = sum(weight * x_D for weight, x_D, _ in weights) / total
    square_D = sum(weight * x_D for weight, _, x_D in weights) / total
    z_ND = (n_ND - mean_D) / (square_D - mean_D**2 + EPSILON).sqrt()
    expected = z_ND.float() @ module.weight.t() + module.bias_K
    torch.testing.assert_close(module(n_ND), expected, rtol=1e-4, atol=1e-4)


def test_biases_follow_the_distance_from_the_wanted_share() -> None:
    module = router(0.4)
    bias_K, n_ND = module.bias_K.clone(), torch.randn(100, DIM, generator=torch.Generator().manual_seed(0))
    open_NK = module(n_ND).relu()
    share_K = (open_NK > 0).float().mean(0)
    module.update(module.sums(n_ND, open_NK), NO)
    torch.testing.assert_close(module.bias_K - bias_K, RATE * (0.4 - share_K))
    assert share_K.std() > 0.01


@pytest.mark.parametrize("activity", [0.2, 0.5, 0.8])
def test_every_gate_is_open_for_the_wanted_share(activity: float) -> None:
    """Also of a representation that collapses to its moving common part."""
    generator = torch.Generator().manual_seed(0)
    module = router(activity)
    shares = []
    for step in range(300):
        n_ND = collapsed(generator, step)
        output_NK = module(n_ND)
        module.update(module.sums(n_ND, output_NK), NO)
        shares.append((output_NK > 0).float().mean(0))
    late_SK = torch.stack(shares[150:])
    assert ((late_SK > activity - 0.2) & (late_SK < activity + 0.2)).all()
    torch.testing.assert_close(late_SK.mean(0), torch.full((EXPERTS,), activity), rtol=0, atol=0.02)
    # The same weights without the running statistics do not route.
    plain_K = (n_ND @ module.weight.t() > 0).float().mean(0)
    assert ((plain_K == 0) | (plain_K == 1)).all()


def test_sums_of_two_ranks_add_up_to_those_of_one() -> None:
    module = router()
    n_ND = collapsed(torch.Generator().manual_seed(0), 0, 11)
    open_NK = module(n_ND).relu()
    parts = [module.sums(n_ND[part], open_NK[part]) for part in (slice(0, 4), slice(4, 11), slice(0, 0))]
    torch.testing.assert_close(sum(parts), module.sums(n_ND, open_NK), rtol=1e-12, atol=1e-12)
    assert len(parts[0]) == module.sums_length


@pytest.mark.parametrize("case", ["skipped", "nothing scored"])
def test_nothing_moves_without_a_step(case: str) -> None:
    """A skipped step may have sums that are not finite."""
    module = router()
    before = copy.deepcopy(module.state_dict())
    if case == "skipped":
        module.update(torch.full((module.sums_length,), math.nan, dtype=torch.float64), torch.ones(()))
    else:
        module.update(torch.zeros(module.sums_length, dtype=torch.float64), NO)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_inputs_and_biases_get_no_gradient() -> None:
    """Else a router would scale its gates by the common part of the representations."""
    module = router()
    n_ND = torch.randn(20, DIM, requires_grad=True)
    module(n_ND).relu().sum().backward()
    assert n_ND.grad is None and not module.bias_K.requires_grad
    assert module.weight.grad is not None and bool(module.weight.grad.any())


@pytest.mark.parametrize(("experts", "activity"), [(3, 0.5), (3, None), (1, 0.5)])
def test_a_tower_returns_what_its_router_read(experts: int, activity: float | None) -> None:
    tower = MoETower(DIM, Tower(experts=experts, hidden=4, out=4, activity=activity))
    initialise(tower, seed=0)
    h_ND = torch.randn(20, DIM, requires_grad=True)
    output = tower(h_ND)
    if experts == 1 or activity is None:
        assert output.routed_ND is None
    else:
        assert isinstance(tower.router, Router) and not output.routed_ND.requires_grad
        torch.testing.assert_close(tower.router(output.routed_ND).relu(), output.gate_NK)
