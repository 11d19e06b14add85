"""Linears with low-rank adapters, and the two gradient streams that pass through them.

Both streams have the value h + h_LoRA with h = W0 x and h_LoRA = B A x; they differ in what is a constant
(arXiv 2601.20215, section 3; sg is stop-gradient):

- main:          h + sg(h_LoRA)   moves W0 and what lies below, never A or B
- satisfaction:  sg(h) + h_LoRA   moves A and B, and what lies below through them alone
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import LoRA
from easq_rec.kernels.linear import adapted_linear, constant_linear, linear
from easq_rec.model.initial import Constant, Law, fan_in, xavier


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
        self.bias = nn.Parameter(torch.empty(out_features))
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        self.scale = 0.0
        self._value: Tensor | None = None
        if lora is not None:
            self.lora_a = nn.Parameter(torch.empty(lora.rank, in_features))
            self.lora_b = nn.Parameter(torch.empty(out_features, lora.rank))
            self.scale = lora.alpha / lora.rank

    def laws(self) -> Mapping[str, Law]:
        outside, inside = self.weight.shape
        return {
            "weight": xavier(inside, outside),
            "bias": Constant(0.0),
            "lora_a": fan_in(inside),
            "lora_b": Constant(0.0),
        }

    def forward(self, x: Tensor, stream: Stream, *, relu: bool = False, rectified: bool = False) -> Tensor:
        """(..., in) to (..., out). `feed_forward` joins two of them by a ReLU: `relu` and `rectified` are its own."""
        merged = self._value if self._value is not None else self.merged()
        match stream:
            case Stream.MAIN:
                # h + sg(h_LoRA) at the price of one product: the merged weight counts for the value alone.
                return linear(x, self.weight, self.bias, merged=merged, relu=relu, rectified=rectified)
            case Stream.SATISFACTION:
                if self.lora_a is None or self.lora_b is None:
                    return constant_linear(x, self.weight, self.bias, relu=relu)
                assert merged is not None
                return adapted_linear(
                    x, merged, self.bias, self.lora_a, self.lora_b, self.scale, relu=relu, rectified=rectified
                )

    @torch.no_grad()
    def merged(self) -> Tensor | None:
        """W0 + scale * B A, (out, in), as a constant; None without an adapter."""
        if self.lora_a is None or self.lora_b is None:
            return None
        return torch.addmm(self.weight, self.lora_b, self.lora_a, alpha=self.scale)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the adapter into W0 and removes it: the same scores, for serving."""
        merged = self.merged()
        if merged is not None:
            self.weight.copy_(merged)
            self.lora_a = self.lora_b = None


@contextlib.contextmanager
def merged_once(linears: Sequence[AdaptedLinear]) -> Iterator[None]:
    """Within it the adapters do not change, and both streams take the same merged weights."""
    with torch.no_grad():
        for linear_ in linears:
            linear_._value = linear_.merged()
    try:
        yield
    finally:
        for linear_ in linears:
            linear_._value = None


def feed_forward(first: AdaptedLinear, second: AdaptedLinear, x: Tensor, stream: Stream) -> Tensor:
    """second(relu(first(x))), (..., in) to (..., out)."""
    return second(first(x, stream, relu=True), stream, rectified=True)


class StreamNorm(nn.LayerNorm):
    """LayerNorm whose affine parameters are constants of the satisfaction stream."""

    def forward(self, x: Tensor, stream: Stream = Stream.MAIN) -> Tensor:
        if stream is Stream.MAIN:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return F.layer_norm(x, self.normalized_shape, self.weight.detach(), self.bias.detach(), self.eps)
