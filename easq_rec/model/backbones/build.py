"""From the configuration of a backbone to its module."""

from __future__ import annotations

from easq_rec.config import Model, Transformer
from easq_rec.model.backbones.transformer import TransformerBackbone


def build_backbone(config: Model) -> TransformerBackbone:
    """The module of `config.backbone`. `forward(tokens, stream)` gives candidate representations, (R, C, D)."""
    match config.backbone:
        case Transformer() as backbone:
            return TransformerBackbone(config, backbone)
