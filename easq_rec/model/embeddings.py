"""Embedding tables, as TorchRec modules that the planner shards, and what the dense network gets from them.

They are separate from the dense network: the train pipeline traces this module to start its communication early, and
does not trace the network.

Legend: R requests, H history entries, N candidates. M, G, F and P are widths of embedded users, history entries,
candidates, and of what only the satisfaction tower reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from easq_rec.config import Model
from easq_rec.config.schema import Feature, FeatureSchema, Table, weighted
from easq_rec.data.batch import RequestBatch
from easq_rec.errors import UserError
from easq_rec.model.floats import EncodedFloats
from easq_rec.model.initial import Law, Normal


class RequestEmbeddings(nn.Module):
    """User and candidate EmbeddingBagCollections, and the EmbeddingCollection that history and candidates share.

    Args:
        satisfaction: add the tables that only the satisfaction tower reads to the candidates' bags: an extra lookup
            costs less than an extra module.
        device: `meta` to leave the memory to DistributedModelParallel.
        std: standard deviation of the initial values.
    """

    def __init__(
        self, schema: FeatureSchema, device: torch.device, *, satisfaction: bool, std: float = Model.table_std
    ) -> None:
        super().__init__()
        self.std = std
        self.user = _collection(_bags(schema.tables, "user", schema.user), schema.user, device)
        self.sequence = EmbeddingCollection(tables=_sequences(schema), device=device)
        bags = _bags(schema.tables, "candidate", schema.pooled)
        if satisfaction:
            bags += _bags(schema.satisfaction_tables, "satisfaction", schema.satisfaction_ids)
        self.candidate = _collection(bags, schema.pooled, device) if bags else None

    def laws(self) -> Mapping[str, Law]:
        return dict.fromkeys((name for name, _ in self.named_parameters()), Normal(self.std))

    def forward(self, batch: RequestBatch) -> tuple[Any, Any, Any]:
        """(KeyedTensor of users, JaggedTensors by key of the sequence ids, KeyedTensor of candidates or None)."""
        # The largest exchange between ranks starts first and overlaps with the other lookups.
        sequence = self.sequence(batch.sequence)
        candidate = self.candidate(batch.candidate) if self.candidate is not None else None
        return self.user(batch.user), sequence, candidate


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the tables returned, for the whole batch or a part of its requests."""

    user_RM: Tensor
    """The user's embeddings side by side, then its float features."""
    history_HG: Tensor
    """The sum of the embeddings of the entry's ids, then its float features."""
    candidate_NF: Tensor
    """The candidate's embeddings side by side, then its float features."""
    satisfaction_NP: Tensor | None
    """What only the satisfaction tower reads: embeddings of the candidate side by side, then numbers; None without
    any."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors through which tables get gradients. `satisfaction_NP` is one of them unless it has only numbers."""
        satisfaction_NP = self.satisfaction_NP
        own = () if satisfaction_NP is None or not satisfaction_NP.requires_grad else (satisfaction_NP,)
        return (self.user_RM, self.history_HG, self.candidate_NF, *own)

    @staticmethod
    def of(
        schema: FeatureSchema,
        floats: EncodedFloats,
        user: Any,
        sequence: Any,
        candidate: Any,
        *,
        satisfaction: bool,
        satisfaction_NF: Tensor | None,
    ) -> Embedded:
        """Puts what `RequestEmbeddings` returned into the order of the schema, and the float features behind it.

        Args:
            satisfaction: whether `candidate` has the satisfaction tower's embeddings.
            satisfaction_NF: numbers that only the satisfaction score reads; None: there are none.
        """
        # Sharded tables wait for their exchange when their output is first read. The history's is the largest and is
        # read last. In backward, what was read last sends its gradients first.
        user_RM = _in_order(user, [f"user.{f.name}" for f in schema.user_ids])
        pooled = candidate.to_dict() if candidate is not None else {}
        own = [pooled[f"satisfaction.{f.name}"] for f in schema.satisfaction_ids if satisfaction]
        own += [] if satisfaction_NF is None else [satisfaction_NF]
        history = [sequence[f"history.{f.name}"].values() for f in schema.history_ids]
        shared = {feature.name for feature in schema.shared}
        features = [
            sequence[f"candidate.{f.name}"].values() if f.name in shared else pooled[f"candidate.{f.name}"]
            for f in schema.candidate
            if f.table is not None
        ]
        history_HE = sum(history[1:], start=history[0])
        return Embedded(
            user_RM=torch.cat([user_RM, floats.user_RF], dim=-1) if schema.user_floats else user_RM,
            history_HG=torch.cat([history_HE, floats.history_HF], dim=-1) if schema.history_floats else history_HE,
            candidate_NF=torch.cat([*features, floats.candidate_NF], dim=-1),
            satisfaction_NP=torch.cat(own, dim=-1) if own else None,
        )

    def scaled(self, schema: FeatureSchema, user_RU: Tensor | None, candidate_NC: Tensor | None) -> Embedded:
        """With each embedding of the user and of the candidates times its factor; None: all are 1."""
        if user_RU is None or candidate_NC is None:
            return self
        return replace(
            self,
            user_RM=self.user_RM * _wide(schema, schema.user_ids, user_RU, self.user_RM.shape[1]),
            candidate_NF=self.candidate_NF
            * _wide(schema, schema.candidate_ids, candidate_NC, self.candidate_NF.shape[1]),
        )


def _wide(schema: FeatureSchema, features: tuple[Feature, ...], factor_NC: Tensor, width: int) -> Tensor:
    """Factors of features as factors of the numbers of their embeddings, and 1 for the floats behind them."""
    dims = [schema.table(str(feature.table)).dim for feature in features]
    columns = [factor_NC[:, place, None].expand(-1, dim) for place, dim in enumerate(dims)]
    return torch.cat([*columns, factor_NC.new_ones(len(factor_NC), width - sum(dims))], dim=1)


def _collection(
    bags: list[EmbeddingBagConfig], features: tuple[Feature, ...], device: torch.device
) -> EmbeddingBagCollection:
    return EmbeddingBagCollection(tables=bags, device=device, is_weighted=weighted(features))


def _bags(tables: tuple[Table, ...], group: str, features: tuple[Feature, ...]) -> list[EmbeddingBagConfig]:
    """One bag per table, with the features of the group that read it. In a weighted collection all bags are sums, since
    the weights of a batch make the means (`easq_rec.data.kinds.lookup`)."""
    means = {table.name: _pooled_by_mean(table, features) for table in tables}
    # FBGEMM looks up tables of the same pooling together. A bag of one id is its own sum and its own mean, so tables
    # that are only read by single ids take the pooling of the others.
    other = True in means.values() and False not in means.values()
    configs = []
    for table in tables:
        readers = [feature for feature in features if feature.table == table.name]
        if not readers:
            continue
        poolings = {feature.pooling for feature in readers if feature.kind == "id_list"}
        if len(poolings) > 1:
            raise UserError(f"schema: features of table {table.name!r} use poolings {sorted(poolings)}: choose one")
        mean = other if means[table.name] is None else means[table.name]
        configs.append(
            EmbeddingBagConfig(
                name=table.name,
                num_embeddings=table.rows,
                embedding_dim=table.dim,
                feature_names=[f"{group}.{feature.name}" for feature in readers],
                pooling=PoolingType.MEAN if mean else PoolingType.SUM,
                init_fn=_leave,
            )
        )
    return configs


def _pooled_by_mean(table: Table, features: tuple[Feature, ...]) -> bool | None:
    """Whether the table's bags are means; None: it does not matter, because every bag has one id."""
    if weighted(features):
        return False
    poolings = {f.pooling for f in features if f.table == table.name and f.kind == "id_list"}
    return poolings == {"mean"} if poolings else None


def _sequences(schema: FeatureSchema) -> list[EmbeddingConfig]:
    """One table per history id feature, read by history and candidates."""
    names: dict[str, list[str]] = {}
    for group, features in (("history", schema.history_ids), ("candidate", schema.shared)):
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


def _in_order(embedded: Any, keys: list[str]) -> Tensor:
    """A KeyedTensor's values with the keys in the given order: sharded tables return them in the order of the plan."""
    if embedded.keys() == keys:
        values: Tensor = embedded.values()
        return values
    parts = embedded.to_dict()
    return torch.cat([parts[key] for key in keys], dim=1)


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """Keeps TorchRec from drawing initial values, which `nn.initial` does."""
    return weight
