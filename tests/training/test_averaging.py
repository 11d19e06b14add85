"""The mean of gradients over ranks, on one; on two it is held to an unsharded model in tests/distributed."""

from __future__ import annotations

import torch
from torch import nn

from easq_rec.config import Trainer
from easq_rec.training.averaging import average_gradients
from easq_rec.training.runtime import running


def test_what_was_not_differentiated_has_no_gradient_afterwards() -> None:
    """A step that is skipped has none on any rank: with gradients of 0 AdamW would move by what it remembers."""
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    with running(Trainer(device="cpu", threads=1)):
        average_gradients(parameters)
    assert all(parameter.grad is None for parameter in parameters)


def test_a_missing_gradient_counts_as_zero() -> None:
    """Each keeps its place and its shape, whatever the ranks add."""
    one, missing, two = (nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2,), (2, 2)))
    one.grad, two.grad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[4.0, 5.0], [6.0, 7.0]])
    with running(Trainer(device="cpu", threads=1)):
        average_gradients([one, missing, two])
    assert one.grad.tolist() == [1, 2, 3] and two.grad.tolist() == [[4, 5], [6, 7]]
    assert missing.grad is not None and missing.grad.tolist() == [0, 0]
