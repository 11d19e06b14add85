"""The mean of gradients over ranks, on one rank. tests/distributed compares two ranks with an unsharded model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from easq_rec.config import TrainerConfig
from easq_rec.training.averaging import Averaging
from easq_rec.training.phases import Phases
from easq_rec.training.process import running


def average(parameters: list[nn.Parameter]) -> None:
    with running(TrainerConfig(device="cpu", threads=1)):
        averaging = Averaging(Phases())
        averaging.start(parameters)
        averaging.finish()


def test_without_any_gradients_averaging_adds_none() -> None:
    """With gradients of 0, the momentum of AdamW would change the parameters."""
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    average(parameters)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_missing_gradient_counts_as_zero() -> None:
    """The gradients of the other parameters keep their order and their shapes."""
    one, missing, two = (nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2,), (2, 2)))
    one.grad, two.grad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[4.0, 5.0], [6.0, 7.0]])
    average([one, missing, two])
    assert one.grad.tolist() == [1, 2, 3] and two.grad.tolist() == [[4, 5], [6, 7]]
    assert missing.grad is not None and missing.grad.tolist() == [0, 0]


@pytest.mark.parametrize("late", ["new", "more", "other"])
def test_a_gradient_that_changes_during_averaging_is_an_error(late: str) -> None:
    """The other ranks have received another value than the parameter now has, so the step would be wrong."""
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad = torch.ones(3)
    with running(TrainerConfig(device="cpu", threads=1)):
        averaging = Averaging(Phases())
        averaging.start(parameters)
        match late:
            case "new":
                parameters[1].grad = torch.ones(2)
            case "more":
                parameters[0].grad += 1
            case "other":
                parameters[0].grad = torch.ones(3)
        with pytest.raises(RuntimeError, match="1 gradients of the network changed after"):
            averaging.finish()
