"""Embedding tables, as TorchRec modules that the planner shards.

They are separate from the dense network: the train pipeline traces this module to start its communication early, and
does not trace the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from easq_rec.config.schema import Feature, FeatureSchema, Table
from easq_rec.data.batch import RequestBatch
from easq_rec.errors import UserError
from easq_rec.model.initial import Law, Normal

TABLE_LAW = Normal(0.05)
"""Small and independent of the table's size: a new id should have little influence."""


class RequestEmbeddings(nn.Module):
    """User and candidate EmbeddingBagCollections, and the EmbeddingCollection that history and candidates share.

    Args:
        satisfaction: add the tables that only the satisfaction tower reads to the candidates' bags: an extra lookup
            costs less than an extra module.
        device: `meta` to leave the memory to DistributedModelParallel.
    """

    def __init__(self, schema: FeatureSchema, device: torch.device, *, satisfaction: bool) -> None:
        super().__init__()
        self.user = EmbeddingBagCollection(tables=_bags(schema.tables, "user", schema.user), device=device)
        self.sequence = EmbeddingCollection(tables=_sequences(schema), device=device)
        bags = _bags(schema.tables, "candidate", schema.pooled)
        if satisfaction:
            bags += _bags(schema.satisfaction_tables, "satisfaction", schema.satisfaction)
        self.candidate = EmbeddingBagCollection(tables=bags, device=device) if bags else None

    def laws(self) -> Mapping[str, Law]:
        return dict.fromkeys((name for name, _ in self.named_parameters()), TABLE_LAW)

    def forward(self, batch: RequestBatch) -> tuple[Any, Any, Any]:
        """(KeyedTensor of users, JaggedTensors by key of the sequence ids, KeyedTensor of candidates or None)."""
        # The largest exchange between ranks starts first and overlaps with the other lookups.
        sequence = self.sequence(batch.sequence)
        candidate = self.candidate(batch.candidate) if self.candidate is not None else None
        return self.user(batch.user), sequence, candidate


def _bags(tables: tuple[Table, ...], group: str, features: tuple[Feature, ...]) -> list[EmbeddingBagConfig]:
    """One bag per table, with the features of the group that read it."""
    configs = []
    for table in tables:
        readers = [feature for feature in features if feature.table == table.name]
        if not readers:
            continue
        poolings = {feature.pooling for feature in readers if feature.kind == "id_list"}
        if len(poolings) > 1:
            raise UserError(f"schema: features of table {table.name!r} use poolings {sorted(poolings)}: choose one")
        configs.append(
            EmbeddingBagConfig(
                name=table.name,
                num_embeddings=table.rows,
                embedding_dim=table.dim,
                feature_names=[f"{group}.{feature.name}" for feature in readers],
                pooling=PoolingType.MEAN if poolings == {"mean"} else PoolingType.SUM,
                init_fn=_leave,
            )
        )
    return configs


def _sequences(schema: FeatureSchema) -> list[EmbeddingConfig]:
    """One table per history id feature, read by history and candidates."""
    names: dict[str, list[str]] = {}
    for group, features in (("history", schema.history), ("candidate", schema.shared)):
        for feature in features:
            assert feature.table is not None
            names.setdefault(feature.table, []).append(f"{group}.{feature.name}")
    return [
        EmbeddingConfig(
            name=name,
            num_embeddings=schema.table(name).rows,
            embedding_dim=schema.table(name).dim,
            feature_names=keys,
            init_fn=_leave,
        )
        for name, keys in names.items()
    ]


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """Keeps TorchRec from drawing initial values, which `nn.initial` does."""
    return weight
