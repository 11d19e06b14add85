"""All options of easq-rec, as frozen dataclasses that validate themselves. No torch import."""

from easq_rec.config.backbones import HSTU, Backbone, LinearName, Transformer
from easq_rec.config.losses import Losses
from easq_rec.config.model import LoRA, Model, Replay, Tower
from easq_rec.config.run import (
    Checkpoint,
    Config,
    Data,
    Evaluation,
    Hidden,
    Logging,
    Optim,
    TrainerConfig,
)
from easq_rec.config.sharding import Sharding, TableSharding
from easq_rec.config.world import World

__all__ = [
    "HSTU",
    "Backbone",
    "Checkpoint",
    "Config",
    "Data",
    "Evaluation",
    "Hidden",
    "LinearName",
    "LoRA",
    "Logging",
    "Losses",
    "Model",
    "Optim",
    "Replay",
    "Sharding",
    "TableSharding",
    "Tower",
    "TrainerConfig",
    "Transformer",
    "World",
]
