"""Tables onto ranks: the planner's constraints, DistributedModelParallel, and initial values that no plan changes."""

from __future__ import annotations

import os
from pathlib import Path

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
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan

from easq_rec.config import Config
from easq_rec.model.embeddings import TABLE_LAW
from easq_rec.model.initial import values
from easq_rec.training.process import Runtime
from easq_rec.training.sharding.comm_codecs import codecs
from easq_rec.training.sharding.constraints import PinningPartitioner, constraints, pins
from easq_rec.training.sharding.host_lookup import use_pooled_kernels
from easq_rec.training.sharding.plan_file import Setting, read_plan_file
from easq_rec.training.sharding.precision import half_tables, store_half

INIT_ROWS = 8_192
"""Rows of a table whose initial values are in memory at once."""


def shard(
    model: nn.Module,
    config: Config,
    runtime: Runtime,
    *,
    plan: ShardingPlan | None = None,
    messages: str | None = None,
) -> DistributedModelParallel:
    """Wraps a model whose tables lie on the meta device, plans, allocates and initialises them.

    Args:
        plan: taken as it is; None: the config's plan file is, and without one the planner makes a plan. It may make
            another one each time it is asked.
        messages: precision of embeddings and their gradients on the way between ranks; None: the config's.

    Raises:
        ValueError: what the config fixes of a table is not supported here, its plan file is not for this run, or there
            is no room for the tables.
    """
    rounding = codecs(messages or config.sharding.messages)
    fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": config.optim.table_lr, "eps": 1e-8}
    sharders: list[ModuleSharder[nn.Module]] = [
        EmbeddingBagCollectionSharder(fused_params=dict(fused), qcomm_codecs_registry=rounding),
        EmbeddingCollectionSharder(fused_params=dict(fused), qcomm_codecs_registry=rounding),
    ]
    store_half(model, half_tables(config))
    _place_dense(model, runtime.device)
    group = dist.group.WORLD
    assert group is not None
    if plan is None:
        plan = _plan(model, sharders, config, runtime, group)
    wrapped = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(group),
        plan=plan,
        sharders=sharders,
        device=runtime.device,
        # The optimizers average the gradients of the network (`training.averaging`).
        init_data_parallel=False,
    )
    if runtime.device.type == "cpu":
        use_pooled_kernels(wrapped)
    initialise_tables(wrapped, seed=config.trainer.seed)
    return wrapped


def _plan(
    model: nn.Module,
    sharders: list[ModuleSharder[nn.Module]],
    config: Config,
    runtime: Runtime,
    group: dist.ProcessGroup,
) -> ShardingPlan:
    """Rank 0's plan, or its error, on every rank: a rank that waited for a plan in vain would hang."""
    outcome: list[ShardingPlan | str] = [""]
    if runtime.leads:
        try:
            outcome = [_plan_alone(model, sharders, config, runtime)]
        except ValueError as error:
            outcome = [str(error)]
    if runtime.world_size > 1:
        dist.broadcast_object_list(outcome, src=0, group=group)
    plan = outcome[0]
    if isinstance(plan, str):
        raise ValueError(plan)
    return plan


def _plan_alone(
    model: nn.Module, sharders: list[ModuleSharder[nn.Module]], config: Config, runtime: Runtime
) -> ShardingPlan:
    # With a plan file as well: what the config fixes must be possible.
    limits = constraints(config, runtime.device, runtime.world_size)
    if config.sharding.plan is not None:
        return read_plan_file(Path(config.sharding.plan), model, config.schema, setting(runtime))
    hbm, ddr = _memory(runtime)
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=runtime.world_size,
            local_world_size=ranks_per_host(runtime),
            compute_device=runtime.device.type,
            hbm_cap=hbm,
            ddr_cap=ddr,
        ),
        batch_size=config.trainer.batch_size,
        constraints=limits,
        partitioner=PinningPartitioner(pins(config)),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.15),
    )
    try:
        return planner.plan(model, sharders)
    except PlannerError as error:
        raise ValueError(
            f"the tables find no place on {runtime.world_size} x {runtime.device.type} with what is fixed of them: "
            f"{error}\n`python -m benchmarks.sharding what-if` tells what would make room"
        ) from error


def _memory(runtime: Runtime) -> tuple[int | None, int]:
    """Bytes per rank: of the GPU, and a rank's share of the host's memory."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cuda = runtime.device.type == "cuda"
    hbm = torch.cuda.get_device_properties(runtime.device).total_memory if cuda else None
    return hbm, host // ranks_per_host(runtime)


def ranks_per_host(runtime: Runtime) -> int:
    """As the launcher says. On CPU all ranks count as one host, since gloo reaches each of them alike."""
    if runtime.device.type == "cpu":
        return runtime.world_size
    return int(os.environ.get("LOCAL_WORLD_SIZE", runtime.world_size))


def setting(runtime: Runtime) -> Setting:
    """What a plan of this run is made for."""
    return Setting(device=runtime.device.type, ranks=runtime.world_size, ranks_per_host=ranks_per_host(runtime))


def _place_dense(model: nn.Module, device: torch.device) -> None:
    """Moves what does not lie on the meta device: the dense network and the objective's constants."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)


@torch.no_grad()
def initialise_tables(model: nn.Module, *, seed: int) -> None:
    """Gives the sharded tables their initial values, which are the same under every plan.

    A table has the name that it has in an unsharded model.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, ShardedTensor):
            continue
        for local in value.local_shards():
            first_row, first_column = local.metadata.shard_offsets
            rows, width = local.tensor.shape
            for begin in range(0, rows, INIT_ROWS):
                end = min(begin + INIT_ROWS, rows)
                part = values(TABLE_LAW, seed, name, value.size(), rows=slice(first_row + begin, first_row + end))
                local.tensor[begin:end] = part[:, first_column : first_column + width]


def plan_table(model: DistributedModelParallel) -> list[tuple[str, str, str]]:
    """(table, sharding type, ranks) of the plan in force."""
    rows = []
    for module_plan in model.plan.plan.values():
        for table, sharding in module_plan.items():
            rows.append((table, sharding.sharding_type, ",".join(map(str, sharding.ranks or []))))
    return sorted(rows)
