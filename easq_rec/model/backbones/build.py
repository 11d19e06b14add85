"""From the configuration of a backbone to its module."""

from __future__ import annotations

from easq_rec.config import HSTU, Model, Transformer
from easq_rec.model.backbones.hstu import HSTUBackbone
from easq_rec.model.backbones.transformer import TransformerBackbone


def build_backbone(config: Model, max_history: int) -> TransformerBackbone | HSTUBackbone:
    """The module of `config.backbone`. `forward(tokens, stream)` gives candidate representations, (R, C, D).

    Args:
        max_history: longest history of a request.
    """
    match config.backbone:
        case Transformer() as backbone:
            return TransformerBackbone(config, backbone)
        case HSTU() as backbone:
            return HSTUBackbone(config, backbone, max_history)
