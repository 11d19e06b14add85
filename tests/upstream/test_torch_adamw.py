"""The fused AdamW of torch still has the expected state, and still skips a step if its flag is set."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.optim.keyed import KeyedOptimizerWrapper

from easq_rec.training.process import quiet
from easq_rec.upstream.torch_adamw import initial_state, step_unless

CHANGED = "torch or TorchRec has changed {}: adapt easq_rec/upstream/torch_adamw.py"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def adamw(parameter: nn.Parameter) -> KeyedOptimizerWrapper:
    return KeyedOptimizerWrapper({"weight": parameter}, lambda params: torch.optim.AdamW(params, lr=0.1, fused=True))


def with_gradient(seed: int = 0) -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    return parameter


def test_a_set_flag_changes_neither_parameter_nor_state() -> None:
    parameter = with_gradient()
    optimizer = adamw(parameter)
    step_unless(optimizer, torch.zeros(()))
    assert not torch.equal(parameter, torch.ones(4)), CHANGED.format("found_inf: a flag of 0 skips the update")
    before = [parameter.clone(), *(value.clone() for value in optimizer.state[parameter].values())]
    step_unless(optimizer, torch.ones(()))
    after = [parameter, *optimizer.state[parameter].values()]
    same = all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert same, CHANGED.format("found_inf: a flag of 1 does not skip the update")


def test_the_initial_state_equals_that_of_adamw() -> None:
    ours, theirs = with_gradient(), with_gradient()
    given, made = adamw(ours), adamw(theirs)
    given.state[ours] = initial_state(ours)
    made.step()
    assert given.state[ours].keys() == made.state[theirs].keys(), CHANGED.format("the state of AdamW")
    given.step()
    for name, value in made.state[theirs].items():
        found = given.state[ours][name]
        same = torch.equal(found, value) and found.dtype == value.dtype and found.device == value.device
        assert same, CHANGED.format(f"the state of AdamW ({name})")
    assert torch.equal(ours, theirs), CHANGED.format("the state of AdamW")
