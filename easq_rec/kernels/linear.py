"""The linear layer with explicit gradients.

It has three advantages over `F.linear`:

- On CPUs with AVX-512, large fp32 products run through oneDNN. On some of these processors it is much faster than the
  BLAS that torch calls (`benchmarks/kernels.py` measures both). On others, and for small products, it is not.
- Another weight can give the value while the gradients are those of `weight`. The merged adapters of both gradient
  streams need this.
- A ReLU between two linears needs no pass over memory. The first linear (`relu`) applies it while it computes its
  result. The second linear (`rectified`) masks the gradient in place, right after it has computed it. So the widest
  activation of the network needs no second buffer for its gradient and no second copy for its mask.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.upstream.torch_operators import has_onednn_linear, onednn_linear, relu_backward_


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
        merged: a constant weight that gives the value in place of `weight`. The gradients are those of `weight`, as if
            the difference of both weights were a constant added to the result.
        relu: apply a ReLU to the result. Its gradient is computed by the linear that gets the result as `rectified`.
        rectified: x is the result of a linear with `relu`.
    """
    if torch.compiler.is_exporting():
        # In two dimensions, and contiguous: else torch would choose a form by whether a size is 1, and trace that one.
        flat = x if x.ndim == 2 else x.clone(memory_format=torch.contiguous_format).view(-1, x.shape[-1])
        y_flat = _plain(flat, weight if merged is None else merged, bias, relu=relu)
        return y_flat.view(*x.shape[:-1], y_flat.shape[-1])
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
    """sg(weight x + bias) + scale b a x. Only the adapter has gradients: for a, for b, and through both for x.

    Args:
        merged: weight + scale b a, the constant that gives the value.
        a: (rank, in).
        b: (out, rank).
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


ONEDNN_WORK = 1 << 24
"""Smallest number of multiplications for which oneDNN is used. Its fixed cost per call is higher than that of BLAS, and
it compiles a kernel for each new shape, which takes longer than a smaller product."""


def onednn_pays(capability: str) -> bool:
    """Whether large fp32 products should run through oneDNN, from the name of the vector instructions that torch uses.

    Measured where both are equally wide (AVX2), BLAS is as fast, and needs no kernel for each shape. The rule reads
    flags and no clock, so that a run which is resumed on the same machine makes the same products.
    """
    return capability == "AVX512" and has_onednn_linear()


ONEDNN = onednn_pays(torch.backends.cpu.get_cpu_capability())
"""Whether this process uses oneDNN for large products."""


def autocast(*tensors: Any) -> Any:
    """Casts tensors as an autocast region does before a product. Autograd functions must do this themselves."""
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
            grad_x = (relu_backward_(grad_x, x) if ctx.rectified else grad_x).view(ctx.shape)
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
        # The low-rank factors are kept as wide rows, because BLAS is much slower for narrow columns.
        grad_low, low = F.linear(b.t(), grad), F.linear(a, x)
        if ctx.scale != 1:
            grad_low, low = grad_low.mul_(ctx.scale), low.mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_low.t() @ a
            grad_x = (relu_backward_(grad_x, x) if ctx.rectified else grad_x).view(ctx.shape)
        return grad_x, None, None, grad_low @ x, (low @ grad).t(), None, None, None


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """weight x + bias, then ReLU if asked; (rows, in) to (rows, out), contiguous."""
    if not _by_onednn(x, len(weight)):
        return _plain(x, weight, bias, relu=relu)
    weight = weight.contiguous()
    rows = len(x)
    up = on_grid(rows)
    y: Tensor
    if up == rows:
        y = onednn_linear(x, weight, bias, relu=relu)
    elif x.shape[1] <= len(weight):
        y = onednn_linear(F.pad(x, (0, 0, 0, up - rows)), weight, bias, relu=relu)[:rows]
    else:
        # Padding x and concatenating results both copy. The result is narrower here, so that is what is copied.
        down = below_grid(rows)
        y = torch.cat([product(x[:down], weight, bias, relu=relu), _plain(x[down:], weight, bias, relu=relu)])
    return y


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x, (out, in). oneDNN reads one factor as a strided view; the narrower factor is transposed in memory."""
    if not _by_onednn(x, grad.shape[1]):
        return grad.t() @ x
    down = below_grid(len(x))
    head, x_head = grad[:down], x[:down]
    y: Tensor
    if x.shape[1] <= grad.shape[1]:
        y = onednn_linear(x_head.t().contiguous(), head.contiguous().t(), None).t()
    else:
        y = onednn_linear(head.t().contiguous(), x_head.contiguous().t(), None)
    return y if down == len(x) else y.addmm_(grad[down:].t(), x[down:])


def on_grid(rows: int) -> int:
    """Rounds a number of rows up to a grid: multiples of 8 up to 512, then 16 values per power of two.

    oneDNN compiles a kernel for every new shape and caches it. Compiling takes longer than most products. Batches of
    ragged requests have a different number of rows each time; on the grid most of them find a cached kernel.
    """
    return -(-rows // _step(rows)) * _step(rows)


def below_grid(rows: int) -> int:
    """Rounds a number of rows down to the grid."""
    return rows // _step(rows) * _step(rows)


def _step(rows: int) -> int:
    return 8 if rows <= 512 else 1 << (rows - 1).bit_length() >> 5


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    y = F.linear(x, weight, bias)
    # In place: no other tensor reads the product.
    return y.relu_() if relu else y


def _by_onednn(x: Tensor, width: int) -> bool:
    work = x.numel() * width
    return ONEDNN and work >= ONEDNN_WORK and x.dtype == torch.float32 and x.device.type == "cpu"
