"""The linear layer's product, and its gradients written out.

Three things are gained over `F.linear`: on CPU fp32 products run through oneDNN, which on some processors is much
faster than the BLAS that torch calls there (`benchmarks/kernels.py` measures both); another weight may stand in for the
value alone, as the merged adapters of both streams need it; and a ReLU between two linears costs no pass of its own.

That ReLU is split between the two: the first one (`relu`) takes it in the pass that computes its result, and the second
one (`rectified`) masks the gradient where it has just computed it, in place. The widest activation of the network thus
needs neither a second buffer for its gradient nor a second copy for its mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    merged: Tensor | None = None,
    relu: bool = False,
    rectified: bool = False,
) -> Tensor:
    """weight x + bias; (..., in) to (..., out).

    Args:
        merged: a constant weight that gives the value in place of `weight`; the gradients are those of `weight`, as if
            the difference of the two were a constant added to the result.
        relu: the result passes a ReLU. Its gradient is left to the one linear that takes the result as `rectified`.
        rectified: x comes from a linear with `relu`.
    """
    x, weight, bias, merged = autocast(x, weight, bias, merged)
    y: Tensor = _Linear.apply(x, weight, bias, merged, relu, rectified)
    return y


def adapted_linear(
    x: Tensor,
    merged: Tensor,
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    *,
    relu: bool = False,
    rectified: bool = False,
) -> Tensor:
    """sg(weight x + bias) + scale b a x: only the adapter passes gradients, to itself and to x.

    Args:
        merged: weight + scale b a, a constant that gives the value.
        relu: as in `linear`.
        rectified: as in `linear`.
    """
    x, merged, bias, a, b = autocast(x, merged, bias, a, b)
    y: Tensor = _AdaptedLinear.apply(x, merged, bias, a, b, scale, relu, rectified)
    return y


@torch.no_grad()
def constant_linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """weight x + bias as a constant, with ReLU if asked."""
    return linear(x, weight, bias, relu=relu)


ONEDNN_WORK = 1 << 20
"""Multiplications from which on a product is worth oneDNN's fixed cost per call, which is above that of BLAS."""


def autocast(*tensors: Any) -> Any:
    """What an autocast region casts before a product; custom functions see to it themselves."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) if tensor is not None else None for tensor in tensors)


class _Linear(torch.autograd.Function):
    """See `linear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, merged: Tensor | None, relu: bool, rectified: bool
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, weight if merged is None else merged, bias, relu=relu)
        ctx.save_for_backward(flat, weight)
        ctx.shape, ctx.rectified = x.shape, rectified
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad, weight.t(), None)
            grad_x = (mask_(grad_x, x) if ctx.rectified else grad_x).view(ctx.shape)
        return grad_x, weight_gradient(grad, x), grad.sum(0), None, None, None


class _AdaptedLinear(torch.autograd.Function):
    """See `adapted_linear`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        merged: Tensor,
        bias: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        relu: bool,
        rectified: bool,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, merged, bias, relu=relu)
        ctx.save_for_backward(flat, a, b)
        ctx.shape, ctx.scale, ctx.rectified = x.shape, scale, rectified
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None, None]:
        x, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, b.shape[0])
        # Low-rank factors as wide rows: BLAS takes much longer for narrow columns.
        grad_low, low = F.linear(b.t(), grad), F.linear(a, x)
        if ctx.scale != 1:
            grad_low, low = grad_low.mul_(ctx.scale), low.mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_low.t() @ a
            grad_x = (mask_(grad_x, x) if ctx.rectified else grad_x).view(ctx.shape)
        return grad_x, None, None, grad_low @ x, (low @ grad).t(), None, None, None


def mask_(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of a ReLU with result y, written over the incoming one."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)
    return masked


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """weight x + bias, then ReLU if asked; (rows, in) to (rows, out), contiguous."""
    if not _by_onednn(x, len(weight)):
        return _plain(x, weight, bias, relu=relu)
    weight = weight.contiguous()
    rows = len(x)
    up = on_grid(rows)
    y: Tensor
    if up == rows:
        y = _ONEDNN(x, weight, bias, "relu" if relu else "none", [], "")
    elif x.shape[1] <= len(weight):
        y = _ONEDNN(F.pad(x, (0, 0, 0, up - rows)), weight, bias, "relu" if relu else "none", [], "")[:rows]
    else:
        # The narrower side is what is copied: here the result.
        down = below_grid(rows)
        y = torch.cat([product(x[:down], weight, bias, relu=relu), _plain(x[down:], weight, bias, relu=relu)])
    return y


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, (out, in). oneDNN takes one factor as a strided view; the narrower one is transposed in memory."""
    if not _by_onednn(x, grad.shape[1]):
        return grad.t() @ x
    down = below_grid(len(x))
    head, x_head = grad[:down], x[:down]
    y: Tensor
    if x.shape[1] <= grad.shape[1]:
        y = _ONEDNN(x_head.t().contiguous(), head.contiguous().t(), None, "none", [], "").t()
    else:
        y = _ONEDNN(head.t().contiguous(), x_head.contiguous().t(), None, "none", [], "")
    return y if down == len(x) else y.addmm_(grad[down:].t(), x[down:])


def on_grid(rows: int) -> int:
    """The next number of rows on a grid: multiples of 8 up to 512, then 16 between one power of two and the next.

    oneDNN compiles its kernels for each shape anew, which takes longer than most products, and keeps them. Batches of
    ragged requests have other row counts each time: on this grid they soon find their kernels ready.
    """
    return -(-rows // _step(rows)) * _step(rows)


def below_grid(rows: int) -> int:
    """The last number of rows on the grid that is not above."""
    return rows // _step(rows) * _step(rows)


def _step(rows: int) -> int:
    return 8 if rows <= 512 else 1 << (rows - 1).bit_length() >> 5


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def _by_onednn(x: Tensor, width: int) -> bool:
    work = x.numel() * width
    return work >= ONEDNN_WORK and x.dtype == torch.float32 and x.device.type == "cpu" and _ONEDNN is not None


def _onednn() -> Any:
    """torch's fused oneDNN linear, which its compiler uses for inference; None where this build lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return packet.default if packet is not None else None


_ONEDNN = _onednn()
