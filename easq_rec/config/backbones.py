"""The backbones that a model can have, as a union of dataclasses.

To add a backbone, write its module in a file below `easq_rec/model/backbones/`, and here its dataclass and one member
of the union. `easq_rec.model.backbones.build` has the `match` from the dataclass to the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from easq_rec.config.schema import require

LinearName = Literal["input", "query", "key_value", "attention_out", "ffn_in", "ffn_out", "gate"]
"""Linears that can carry an adapter. `input` projects embeddings to tokens; the others are linears of a backbone."""


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """Pre-norm blocks of softmax attention and a ReLU feed-forward net."""

    heads: int = 4
    """Attention heads; a divisor of model.dim."""
    layers: int = 2
    """Number of blocks."""
    ffn: int = 256
    """Hidden width of a block's feed-forward net."""

    linears: ClassVar[frozenset[LinearName]] = frozenset({"query", "key_value", "attention_out", "ffn_in", "ffn_out"})
    """Linears of a block."""

    def __post_init__(self) -> None:
        require(self.heads >= 1, "model.backbone.heads", self.heads, "at least 1")
        require(self.layers >= 1, "model.backbone.layers", self.layers, "at least 1")
        require(self.ffn >= 1, "model.backbone.ffn", self.ffn, "at least 1")


@dataclass(frozen=True, kw_only=True)
class HSTU:
    """Blocks of gated pointwise attention with a bias for relative position and time (arXiv 2402.17152)."""

    heads: int = 4
    """Attention heads; a divisor of model.dim."""
    layers: int = 2
    """Number of blocks."""

    linears: ClassVar[frozenset[LinearName]] = frozenset({"query", "key_value", "gate", "attention_out"})
    """Linears of a block."""

    def __post_init__(self) -> None:
        require(self.heads >= 1, "model.backbone.heads", self.heads, "at least 1")
        require(self.layers >= 1, "model.backbone.layers", self.layers, "at least 1")


Backbone = Transformer | HSTU
