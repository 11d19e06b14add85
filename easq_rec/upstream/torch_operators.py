"""Operators of torch that have no public name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def softmax_backward(grad: Tensor, share: Tensor) -> Tensor:
    """Gradient of the input of a softmax over the last dimension.

    Args:
        grad: gradient of the softmax's result.
        share: the softmax's result; the same shape.
    """
    return torch._softmax_backward_data(grad, share, -1, share.dtype)


def relu_backward_(grad: Tensor, y: Tensor) -> Tensor:
    """Sets `grad` to 0 in place where the ReLU's result `y` is 0, and returns it."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
    return masked


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x weight^T + bias, then ReLU if asked, by oneDNN's fused fp32 kernel.

    Args:
        x: (rows, in).
        weight: (out, in).
        bias: (out,), or None.

    Returns:
        (rows, out).
    """
    y: Tensor = _LINEAR(x, weight, bias, "relu" if relu else "none", [], "")
    return y


def has_onednn_linear() -> bool:
    """Whether this build of torch has `onednn_linear`, an operator that its compiler uses for inference."""
    return _LINEAR is not None


def onednn_linear_packet() -> Any:
    """The operator of `onednn_linear` as torch's FLOP counter names it; None if this build of torch lacks it."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


_LINEAR: Any = packet.default if (packet := onednn_linear_packet()) is not None else None
