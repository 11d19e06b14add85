"""Tables that are stored in half precision."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from easq_rec.config import Config
from easq_rec.model.embeddings import RequestEmbeddings


def half_tables(config: Config) -> set[str]:
    """Names of the tables that the config stores in FP16."""
    tables = (*config.schema.tables, *config.schema.satisfaction_tables)
    return {table.name for table in tables if config.sharding.of(table.name).weights == "fp16"}


def store_half(model: nn.Module, tables: Iterable[str]) -> None:
    """Rebuilds the collections that hold any of the tables, on the meta device, with these tables in FP16.

    Looked-up embeddings, gradients and Adagrad's moments stay in FP32.
    """
    chosen = set(tables)
    for embeddings in [module for module in model.modules() if isinstance(module, RequestEmbeddings)]:
        for name, old in list(embeddings.named_children()):
            assert isinstance(old, EmbeddingBagCollection | EmbeddingCollection)
            bags = isinstance(old, EmbeddingBagCollection)
            configs = old.embedding_bag_configs() if bags else old.embedding_configs()
            if not chosen & {config.name for config in configs}:
                continue
            for config in configs:
                config.data_type = DataType.FP16 if config.name in chosen else DataType.FP32
            kind = EmbeddingBagCollection if bags else EmbeddingCollection
            setattr(embeddings, name, kind(tables=configs, device=torch.device("meta")))
