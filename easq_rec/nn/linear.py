"""The linear layer's product, and its gradients written out.

Two things are gained over `F.linear`: on CPU fp32 products run through oneDNN, which on some processors is much
faster than the BLAS that torch calls there (`benchmarks/kernels.py` measures both), with ReLU in the same pass; and
another weight may stand in for the value alone, as the merged adapters of both streams need it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, merged: Tensor | None = None, relu: bool = False) -> Tensor:
    """weight x + bias, with ReLU if asked; (..., in) to (..., out).

    Args:
        merged: a constant weight that gives the value in place of `weight`; the gradients are those of `weight`, as if
            the difference of the two were a constant added to the result.
    """
    x, weight, bias, merged = _autocast(x, weight, bias, merged)
    y: Tensor = _Linear.apply(x, weight, bias, merged, relu)
    return y


def adapted_linear(
    x: Tensor, merged: Tensor, bias: Tensor, a: Tensor, b: Tensor, scale: float, *, relu: bool = False
) -> Tensor:
    """sg(weight x + bias) + scale b a x, with ReLU if asked: only the adapter passes gradients, to itself and to x.

    Args:
        merged: weight + scale b a, a constant that gives the value.
    """
    x, merged, bias, a, b = _autocast(x, merged, bias, a, b)
    y: Tensor = _AdaptedLinear.apply(x, merged, bias, a, b, scale, relu)
    return y


@torch.no_grad()
def constant_linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """weight x + bias as a constant, with ReLU if asked."""
    return linear(x, weight, bias, relu=relu)


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, merged: Tensor | None = None, relu: bool = False
) -> Tensor:
    """What `linear` computes, as it is written: its slow reference."""
    y = F.linear(x, weight, bias)
    if merged is not None:
        y = y + F.linear(x, merged - weight).detach()
    return F.relu(y) if relu else y


def adapted_linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, scale: float, *, relu: bool = False
) -> Tensor:
    """What `adapted_linear` computes, as it is written: its slow reference."""
    y = F.linear(x, weight, bias).detach() + scale * F.linear(F.linear(x, a), b)
    return F.relu(y) if relu else y


def _autocast(*tensors: Any) -> Any:
    """What an autocast region casts before a product; custom functions see to it themselves."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) if tensor is not None else None for tensor in tensors)


class _Linear(torch.autograd.Function):
    """See `linear`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, merged: Tensor | None, relu: bool) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _product(flat, weight if merged is None else merged, bias, relu=relu)
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
        return grad_x, _weight_gradient(grad, x), grad.sum(0), None, None


class _AdaptedLinear(torch.autograd.Function):
    """See `adapted_linear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, merged: Tensor, bias: Tensor, a: Tensor, b: Tensor, scale: float, relu: bool
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = _product(flat, merged, bias, relu=relu)
        ctx.save_for_backward(flat, a, b, y if relu else None)
        ctx.shape, ctx.scale = x.shape, scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x, a, b, y = ctx.saved_tensors
        grad = grads[0].reshape(-1, b.shape[0])
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        grad_low = (grad @ b).mul_(ctx.scale)
        low = (x @ a.t()).mul_(ctx.scale)
        grad_x = (grad_low @ a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_low.t() @ x, grad.t() @ low, None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x weight^T + bias, then ReLU if asked; two-dimensional."""
    if _by_onednn(x):
        y: Tensor = _ONEDNN(x, weight.contiguous(), bias, "relu" if relu else "none", [], "")
        return y
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, (out, in). oneDNN takes one factor as a strided view; the narrower one is transposed in memory."""
    if not _by_onednn(x):
        return grad.t() @ x
    y: Tensor
    if x.shape[1] <= grad.shape[1]:
        y = _ONEDNN(x.t().contiguous(), grad.contiguous().t(), None, "none", [], "").t()
    else:
        y = _ONEDNN(grad.t().contiguous(), x.contiguous().t(), None, "none", [], "")
    return y


def _by_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and _ONEDNN is not None


def _onednn() -> Any:
    """torch's fused oneDNN linear, which its compiler uses for inference; None where this build lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return packet.default if packet is not None else None


_ONEDNN = _onednn()
