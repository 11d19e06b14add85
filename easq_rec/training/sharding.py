"""Tables onto ranks: the planner's constraints, DistributedModelParallel, and initial values that no plan changes."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan

from easq_rec.config import Config
from easq_rec.nn.embeddings import INIT_STD
from easq_rec.training.host_lookup import use_pooled_kernels
from easq_rec.training.runtime import Runtime

# What trains correctly with unequal batches per rank. Row-wise bags need equal batches under gloo, and data-parallel
# collections are wrong in FBGEMM's CPU kernels; replicated tables would also escape the fused optimizer.
POOLED_CPU = ("table_wise", "column_wise", "table_column_wise")
SEQUENCE_CPU = ("table_wise", "row_wise", "column_wise")
CUDA = ("table_wise", "column_wise", "table_column_wise", "row_wise", "table_row_wise", "grid_shard")

INIT_ROWS = 8_192
"""Rows that one random state fills."""


def shard(
    model: nn.Module, config: Config, runtime: Runtime, *, plan: ShardingPlan | None = None
) -> DistributedModelParallel:
    """Wraps a model whose tables lie on the meta device, plans, allocates and initialises them.

    Args:
        plan: taken as it is; None: the planner makes one. It may make another one each time it is asked.

    Raises:
        ValueError: a forced sharding type that the device does not support.
    """
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": config.optim.table_lr, "eps": 1e-8}
    sharders: list[ModuleSharder[nn.Module]] = [
        EmbeddingBagCollectionSharder(fused_params=dict(fused)),
        EmbeddingCollectionSharder(fused_params=dict(fused)),
    ]
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=runtime.world_size,
            local_world_size=runtime.world_size if runtime.device.type == "cpu" else None,
            compute_device=runtime.device.type,
        ),
        constraints=_constraints(config, runtime.device, runtime.world_size),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
    )
    _place_dense(model, runtime.device)
    group = dist.group.WORLD
    assert group is not None
    plan = plan or planner.collective_plan(model, sharders, group)
    wrapped = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(group),
        plan=plan,
        sharders=sharders,
        device=runtime.device,
        # One rank has no gradients to average: DistributedDataParallel would only copy them.
        init_data_parallel=runtime.world_size > 1,
    )
    if runtime.device.type == "cpu":
        use_pooled_kernels(wrapped)
    initialise_tables(wrapped, seed=config.trainer.seed)
    return wrapped


def _place_dense(model: nn.Module, device: torch.device) -> None:
    """Moves what does not lie on the meta device: the dense network and the objective's constants."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)


def _constraints(config: Config, device: torch.device, world_size: int) -> dict[str, ParameterConstraints]:
    sequence = {feature.table for feature in config.schema.sequence}
    constraints = {}
    for table in (*config.schema.tables, *config.schema.satisfaction_tables):
        allowed: tuple[str, ...] = (
            CUDA if device.type == "cuda" else SEQUENCE_CPU if table.name in sequence else POOLED_CPU
        )
        forced = config.sharding.types.get(table.name)
        if forced is not None and forced not in allowed:
            raise ValueError(
                f"sharding.types[{table.name!r}]={forced!r} is not allowed: on {device.type} one of {list(allowed)}"
            )
        # One rank has nothing to split; every other type would only add work.
        offered = [forced] if forced else list(allowed) if world_size > 1 else ["table_wise"]
        constraints[table.name] = ParameterConstraints(sharding_types=offered, compute_kernels=["fused"])
    return constraints


@torch.no_grad()
def initialise_tables(model: nn.Module, *, seed: int) -> None:
    """Normal values that depend on (seed, table, row, column) alone: every plan starts from the same weights."""
    for name, value in model.state_dict().items():
        if not isinstance(value, ShardedTensor):
            continue
        for local in value.local_shards():
            first_row, first_column = local.metadata.shard_offsets
            columns = value.size()[1]
            rows, width = local.tensor.shape
            for chunk in range(first_row // INIT_ROWS, (first_row + rows - 1) // INIT_ROWS + 1):
                digest = hashlib.sha256(f"{seed}/{name}/{chunk}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
                begin = chunk * INIT_ROWS
                size = min(INIT_ROWS, value.size()[0] - begin)
                block = torch.empty(size, columns).normal_(std=INIT_STD, generator=generator)
                start, end = max(begin, first_row), min(begin + size, first_row + rows)
                part = block[start - begin : end - begin, first_column : first_column + width]
                local.tensor[start - first_row : end - first_row] = part


def plan_table(model: DistributedModelParallel) -> list[tuple[str, str, str]]:
    """(table, sharding type, ranks) of the plan in force."""
    rows = []
    for module_plan in model.plan.plan.values():
        for table, sharding in module_plan.items():
            rows.append((table, sharding.sharding_type, ",".join(map(str, sharding.ranks or []))))
    return sorted(rows)
