"""Linears with low-rank adapters, and the two gradient streams that pass through them.

Both streams have the value h + h_LoRA with h = W0 x and h_LoRA = B A x; they differ in what is a constant
(arXiv 2601.20215, section 3; sg is stop-gradient):

- main:          h + sg(h_LoRA)   moves W0 and what lies below, never A or B
- satisfaction:  sg(h) + h_LoRA   moves A and B, and what lies below through them alone
"""

from __future__ import annotations

import enum
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import LoRA


class Stream(enum.Enum):
    """Which of the two gradient routes a forward pass takes."""

    MAIN = "main"
    SATISFACTION = "satisfaction"


class AdaptedLinear(nn.Module):
    """y = W0 x + b, plus an adapter B A x where `lora` is given. B starts at zero.

    In the satisfaction stream W0 and b are constants; without an adapter the whole output is one.
    """

    def __init__(self, in_features: int, out_features: int, lora: LoRA | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        self.scale = 0.0
        if lora is not None:
            self.lora_a = nn.Parameter(torch.empty(lora.rank, in_features))
            self.lora_b = nn.Parameter(torch.zeros(out_features, lora.rank))
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
            self.scale = lora.alpha / lora.rank

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(..., in) to (..., out)."""
        match stream:
            case Stream.MAIN:
                if self.lora_a is None:
                    return F.linear(x, self.weight, self.bias)
                return _merged_linear(x, self.weight, self.bias, self.delta())
            case Stream.SATISFACTION:
                with torch.no_grad():
                    base = F.linear(x, self.weight, self.bias)
                if self.lora_a is None or self.lora_b is None:
                    return base
                return base + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """The adapter as a weight, scale * B A, (out, in), as a constant."""
        assert self.lora_a is not None and self.lora_b is not None
        return self.scale * (self.lora_b @ self.lora_a)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the adapter into W0 and removes it: the same scores, for serving."""
        if self.lora_a is not None:
            self.weight.add_(self.delta())
            self.lora_a = self.lora_b = None


class StreamNorm(nn.LayerNorm):
    """LayerNorm whose affine parameters are constants of the satisfaction stream."""

    def forward(self, x: Tensor, stream: Stream = Stream.MAIN) -> Tensor:
        if stream is Stream.MAIN:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return F.layer_norm(x, self.normalized_shape, self.weight.detach(), self.bias.detach(), self.eps)


def main_linear_reference(x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
    """h + sg(h_LoRA), as it is written: the slow reference of the main stream."""
    return F.linear(x, weight, bias) + F.linear(x, delta).detach()


def _merged_linear(x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
    """The same value and gradients as `main_linear_reference` for the price of one product."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias, delta = x.to(dtype), weight.to(dtype), bias.to(dtype), delta.to(dtype)
    return _MergedLinear.apply(x, weight, bias, delta)


class _MergedLinear(torch.autograd.Function):
    """y = (W0 + delta) x + b forward; backward as if delta were not there, since h_LoRA is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight + delta, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = (flat @ weight).view_as(x) if ctx.needs_input_grad[0] else None
        return grad_x, flat.t() @ x.reshape(-1, x.shape[-1]), flat.sum(0), None
