"""Linear layers with low-rank adapters, and the two gradient streams through them.

Both streams have the value h + h_LoRA with h = W0 x and h_LoRA = B A x; they differ in the term that is a constant
(arXiv 2601.20215, section 3; sg is stop-gradient):

- main:          h + sg(h_LoRA)   gradients reach W0 and earlier layers, never A or B
- satisfaction:  sg(h) + h_LoRA   gradients reach A and B, and earlier layers only through A and B
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config import LinearName, LoRA, Model
from easq_rec.kernels.linear import adapted_linear, constant_linear, linear
from easq_rec.model.initial import Constant, Law, fan_in, xavier


class Stream(enum.Enum):
    """The gradient stream of a forward pass."""

    MAIN = "main"
    SATISFACTION = "satisfaction"


def adapter(config: Model, name: LinearName) -> LoRA | None:
    """The adapter that the linear `name` carries, if any."""
    lora = config.lora
    return lora if lora is not None and (lora.targets is None or name in lora.targets) else None


class AdaptedLinear(nn.Module):
    """y = W0 x + b, plus an adapter B A x if `lora` is given. B starts at zero.

    In the satisfaction stream W0 and b are constants; without an adapter the whole output is a constant.
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
        """(..., in) to (..., out). Only `feed_forward` uses `relu` and `rectified`, to put a ReLU between two
        layers."""
        merged = self._value if self._value is not None else self.merged()
        match stream:
            case Stream.MAIN:
                # h + sg(h_LoRA) with one product: the merged weight is used only for the value.
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
        """Adds the adapter to W0 and removes it, for serving; the scores do not change."""
        merged = self.merged()
        if merged is not None:
            self.weight.copy_(merged)
            self.lora_a = self.lora_b = None


@contextlib.contextmanager
def merged_once(linears: Sequence[AdaptedLinear]) -> Iterator[None]:
    """A block in which the adapters do not change, so that both streams use the same merged weights."""
    adapted = [linear_ for linear_ in linears if linear_.lora_a is not None]
    for linear_ in adapted:
        linear_._value = linear_.merged()
    try:
        yield
    finally:
        for linear_ in adapted:
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
