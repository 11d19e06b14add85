"""A tower computes all experts in one product, which equals the sum over its experts. No expert dies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.config import Tower
from easq_rec.model.initial import initialise
from easq_rec.model.towers import MoETower
from tests.builders import excite

SIZES = st.integers(1, 5)


def tower(
    dim: int = 6,
    *,
    floor: float = 0.01,
    experts: int = 3,
    hidden: int = 4,
    out: int = 5,
    activity: float | None = None,
) -> MoETower:
    torch.manual_seed(dim + 10 * experts)
    config = Tower(experts=experts, hidden=hidden, out=out, gate_floor=floor, activity=activity)
    module = MoETower(dim, config).double()
    initialise(module, seed=dim + 10 * experts)
    excite(module)
    return module


def gradients(score_N: Tensor, h_ND: Tensor, module: MoETower) -> dict[str, Tensor]:
    weight_N = torch.linspace(-1, 2, len(score_N), dtype=score_N.dtype)
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad((score_N * weight_N).sum(), (h_ND, *parameters))
    return dict(zip(("h", *names), found, strict=True))


@given(
    rows=st.integers(0, 7),
    dim=st.integers(2, 6),
    experts=SIZES,
    hidden=SIZES,
    out=SIZES,
    floor=st.floats(0, 0.5),
    activity=st.sampled_from([None, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_forward_equals_its_reference(
    rows: int, dim: int, experts: int, hidden: int, out: int, floor: float, activity: float | None
) -> None:
    """The scores and the gradients of the input and of every parameter are equal."""
    floor = floor if activity is None else floor + 1e-3
    module = tower(dim, floor=floor, experts=experts, hidden=hidden, out=out, activity=activity)
    h_ND = (2 * torch.randn(rows, dim, dtype=torch.float64)).requires_grad_()
    fast, slow = module(h_ND).score_N, module.reference(h_ND)
    assert fast.shape == (rows,)
    torch.testing.assert_close(fast, slow)
    expected = gradients(slow, h_ND, module)
    for name, gradient in gradients(fast, h_ND, module).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_gates_are_those_of_the_router_before_the_floor() -> None:
    """A gate of zero means that the expert is closed. The statistics count these gates."""
    module = tower(floor=0.5)
    torch.nn.init.constant_(module.router.bias, 0.0)
    gate_NK = module(torch.randn(200, 6, dtype=torch.float64)).gate_NK
    assert gate_NK.shape == (200, 3)
    assert (gate_NK >= 0).all()
    closed = (gate_NK == 0).double().mean(0)
    assert ((closed > 0.05) & (closed < 0.95)).all()


@pytest.mark.parametrize(("floor", "alive"), [(0.01, True), (0.0, False)])
def test_the_floor_keeps_closed_experts_learning(floor: float, alive: bool) -> None:
    """If all outputs of the router are negative, every expert still gets gradients.

    Without a floor no expert would ever get gradients again.
    """
    module = tower(floor=floor)
    torch.nn.init.constant_(module.router.bias, -100.0)
    torch.nn.init.constant_(module.experts.out_KO, 0.2)
    h_ND = torch.randn(50, 6, dtype=torch.float64, requires_grad=True)
    output = module(h_ND)
    assert not output.gate_NK.any()
    found = gradients(output.score_N, h_ND, module)
    for name in ("in_KHD", "in_KH", "out_KOH", "out_KO"):
        per_expert = found[f"experts.{name}"].flatten(1).abs().amax(1)
        assert ((per_expert > 0) == alive).all(), name
    assert bool(found["h"].any()) == alive


@pytest.mark.parametrize("activity", [None, 0.5])
def test_every_expert_is_open_at_the_start(activity: float | None) -> None:
    """Each gate of a new tower is open for many inputs, so that every expert learns from the first step."""
    for seed in range(5):
        torch.manual_seed(seed)
        module = MoETower(16, Tower(experts=6, activity=activity))
        initialise(module, seed=seed)
        share_K = (module(torch.randn(400, 16)).gate_NK > 0).double().mean(0)
        assert (share_K > 0.3).all()


def test_a_single_expert_has_no_router_and_is_always_open() -> None:
    module = MoETower(6, Tower(experts=1, hidden=4, out=5)).double()
    initialise(module, seed=0)
    assert not [name for name, _ in module.named_parameters() if "router" in name]
    output = module(torch.randn(20, 6, dtype=torch.float64))
    assert (output.gate_NK == 1).all() and output.gate_NK.shape == (20, 1)
    assert bool(output.score_N.std() > 0)
