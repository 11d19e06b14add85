"""Fixtures with a small sharded model on one rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from easq_rec.config import TrainerConfig
from easq_rec.training.process import quiet, running

CPU = torch.device("cpu")
FUSED = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1, "eps": 1e-8}


@dataclass
class Ids(Pipelineable):
    """One batch: the ids of two features."""

    bags: KeyedJaggedTensor
    sequences: KeyedJaggedTensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Ids:
        return Ids(self.bags.to(device, non_blocking), self.sequences.to(device, non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        self.bags.record_stream(stream)
        self.sequences.record_stream(stream)

    def pin_memory(self) -> Ids:
        return self


class Model(nn.Module):
    """Batch to (loss, output): one pooled and one unpooled table below a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        meta = torch.device("meta")
        self.bags = EmbeddingBagCollection(
            tables=[EmbeddingBagConfig(name="bag", embedding_dim=8, num_embeddings=20, feature_names=["a"])],
            device=meta,
        )
        self.sequences = EmbeddingCollection(
            tables=[EmbeddingConfig(name="sequence", embedding_dim=8, num_embeddings=30, feature_names=["b"])],
            device=meta,
        )
        self.linear = nn.Linear(8, 1)

    def forward(self, batch: Ids) -> tuple[Tensor, Tensor]:
        embedded = torch.cat([self.bags(batch.bags).values(), self.sequences(batch.sequences)["b"].values()])
        scores = self.linear(embedded).flatten()
        return scores.square().mean(), scores


def ids(seed: int) -> Ids:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1, 2, 0, 3])
    return Ids(
        KeyedJaggedTensor(["a"], torch.randint(20, (6,), generator=generator), lengths=lengths),
        KeyedJaggedTensor(["b"], torch.randint(30, (6,), generator=generator), lengths=lengths),
    )


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    with running(TrainerConfig(device="cpu", threads=1)):
        yield


@pytest.fixture
def sharded(one_rank: None) -> DistributedModelParallel:
    quiet()
    model = Model()
    sharders: list[Any] = [
        EmbeddingBagCollectionSharder(fused_params=FUSED),
        EmbeddingCollectionSharder(fused_params=FUSED),
    ]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=1, compute_device="cpu", ddr_cap=2**30),
        constraints={
            name: ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
            for name in ("bag", "sequence")
        },
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
    )
    group = dist.group.WORLD
    assert group is not None
    wrapped = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(group),
        plan=planner.plan(model, sharders),
        sharders=sharders,
        device=CPU,
        init_data_parallel=False,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.normal_(generator=generator)
    return wrapped
