"""The linear layer's product, and its gradients written out.

Two things are gained over `F.linear`: on CPU fp32 products run through oneDNN, which on some processors is twice as
fast as the BLAS that torch calls there (`benchmarks/kernels.py` measures both), with ReLU in the same pass; and a
weight may have a constant added for the value alone, as the merged adapters of the main stream need it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, delta: Tensor | None = None, relu: bool = False) -> Tensor:
    """(weight + delta) x + bias, with ReLU if asked; (..., in) to (..., out).

    Args:
        delta: a constant of weight's shape that counts for the value alone: gradients are those of `weight` x, plus
            a constant.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        delta = delta.to(dtype) if delta is not None else None
    return _Linear.apply(x, weight, bias, delta, relu)


@torch.no_grad()
def constant_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight x + bias as a constant."""
    return linear(x, weight, bias)


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, delta: Tensor | None = None, relu: bool = False
) -> Tensor:
    """What `linear` computes, as it is written: its slow reference."""
    y = F.linear(x, weight, bias)
    if delta is not None:
        y = y + F.linear(x, delta).detach()
    return F.relu(y) if relu else y


class _Linear(torch.autograd.Function):
    """See `linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor | None, relu: bool) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _product(flat, weight if delta is None else weight + delta, bias, relu=relu)
        ctx.save_for_backward(flat, weight, y if relu else None)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, y = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        grad_x = _product(grad, weight.t(), None).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, grad.t() @ x, grad.sum(0), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x weight^T + bias, then ReLU if asked; two-dimensional."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() and _ONEDNN is not None:
        y: Tensor = _ONEDNN(x, weight.contiguous(), bias, "relu" if relu else "none", [], "")
        return y
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def _onednn() -> Any:
    """torch's fused oneDNN linear, which its compiler uses for inference; None where this build lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return packet.default if packet is not None else None


_ONEDNN = _onednn()
