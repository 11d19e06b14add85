"""Gradients that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Poison(torch.autograd.Function):
    """Returns the value unchanged, and NaN or infinity as its gradient: `Poison.apply(value, "inf")`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: str) -> Tensor:
        ctx.gradient = float(gradient)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.full_like(gradient, ctx.gradient), None
