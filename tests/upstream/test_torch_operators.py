"""The private operators of torch still compute what the kernels need."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from easq_rec.upstream import torch_operators

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_operators.py"


def test_softmax_backward_is_the_gradient_of_softmax() -> None:
    x = torch.randn(4, 7, requires_grad=True)
    grad = torch.randn(4, 7)
    (expected,) = torch.autograd.grad(x.softmax(-1), x, grad)
    found = torch_operators.softmax_backward(grad, x.detach().softmax(-1))
    assert torch.allclose(found, expected, atol=1e-6), CHANGED.format("torch._softmax_backward_data")


def test_relu_backward_masks_the_gradient_in_place() -> None:
    y, grad = F.relu(torch.randn(50)), torch.randn(50)
    expected = grad * (y > 0)
    found = torch_operators.relu_backward_(grad, y)
    assert torch.equal(found, expected), CHANGED.format("aten.threshold_backward.grad_input")
    assert found.data_ptr() == grad.data_ptr(), CHANGED.format("aten.threshold_backward.grad_input")


@pytest.mark.parametrize("relu", [False, True])
def test_onednn_linear_equals_a_linear_layer(relu: bool) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    assert torch_operators.has_onednn_linear(), CHANGED.format("mkldnn._linear_pointwise")
    x, weight, bias = torch.randn(16, 8), torch.randn(5, 8), torch.randn(5)
    expected = F.linear(x, weight, bias)
    found = torch_operators.onednn_linear(x, weight, bias, relu=relu)
    assert torch.allclose(found, F.relu(expected) if relu else expected, atol=1e-5), CHANGED.format(
        "mkldnn._linear_pointwise"
    )
