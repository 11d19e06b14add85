"""Sharding of a model: the plan, DistributedModelParallel, and initial values that do not depend on the plan."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ModuleSharder, ShardingEnv, ShardingPlan

from easq_rec.config import Config
from easq_rec.errors import UserError
from easq_rec.model.initial import Normal, values
from easq_rec.run_directory.plan_file import ClusterShape, parse_plan, plan_text, read_plan
from easq_rec.training.launch import launch
from easq_rec.training.process import Runtime
from easq_rec.training.sharding.comm_codecs import codecs
from easq_rec.training.sharding.constraints import constraints, pins
from easq_rec.training.sharding.host_lookup import use_pooled_kernels
from easq_rec.training.sharding.plan_conversion import placement_plan, sharding_plan
from easq_rec.training.sharding.precision import half_tables, store_half
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor
from easq_rec.upstream.torchrec_planner import PinningPartitioner

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
    """Wraps a model whose tables are on the meta device; plans, allocates and initialises the tables.

    Args:
        plan: used as it is. None: the plan of the config's plan file, or else one that the planner makes. The planner
            may make another plan each time.
        messages: precision of embeddings and their gradients in the exchange between ranks; None: the config's.

    Raises:
        UserError: what the config fixes for a table is not supported here, its plan file does not fit this run, or
            the tables do not fit into memory.
    """
    rounding = codecs(messages or config.sharding.messages)
    fused = {
        "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "learning_rate": config.optim.table_lr,
        "eps": config.optim.table_eps,
    }
    sharders: list[ModuleSharder[nn.Module]] = [
        EmbeddingBagCollectionSharder(fused_params=dict(fused), qcomm_codecs_registry=rounding),
        EmbeddingCollectionSharder(fused_params=dict(fused), qcomm_codecs_registry=rounding),
    ]
    store_half(model, half_tables(config))
    _place_dense(model, runtime.device)
    if plan is None:
        plan = _plan(model, sharders, config, runtime)
    group = dist.group.WORLD
    assert group is not None
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
    initialise_tables(wrapped, seed=config.trainer.seed, std=config.model.table_std)
    return wrapped


def _plan(model: nn.Module, sharders: list[ModuleSharder[nn.Module]], config: Config, runtime: Runtime) -> ShardingPlan:
    """The plan of rank 0, on every rank.

    If rank 0 fails, all ranks raise its error: a rank that waits for a plan would hang. The plan is exchanged in the
    form of the plan file, so that a new run has exactly the plan that a resumed run reads.
    """
    shape = cluster_shape(runtime)
    text = problem = ""
    if runtime.leads:
        try:
            text = plan_text(placement_plan(_make_plan(model, sharders, config, runtime), config.schema, shape))
        except UserError as error:
            problem = str(error)
    problem = runtime.share(problem)
    if problem:
        raise UserError(problem)
    source = "the plan of rank 0"
    found = parse_plan(runtime.share(text), source=source)
    return sharding_plan(found, model, config.schema, shape, source=source)


def stored_plan(path: Path, model: nn.Module, config: Config, runtime: Runtime) -> ShardingPlan | None:
    """The plan in a checkpoint's plan file; None if it was made for other ranks or devices.

    Args:
        model: holds the collections of tables, before it is sharded.

    Raises:
        UserError: the file is not a plan for the tables of this model.
    """
    shape, source = cluster_shape(runtime), str(path)
    found = read_plan(path, source=source)
    return sharding_plan(found, model, config.schema, shape, source=source) if found.shape == shape else None


def _make_plan(
    model: nn.Module, sharders: list[ModuleSharder[nn.Module]], config: Config, runtime: Runtime
) -> ShardingPlan:
    # These are checked with a plan file as well: the config must not fix what is impossible.
    limits = constraints(config, runtime.device, runtime.world_size)
    if config.sharding.plan is not None:
        source = f"sharding.plan={config.sharding.plan!r}"
        found = read_plan(Path(config.sharding.plan), source=source)
        return sharding_plan(found, model, config.schema, cluster_shape(runtime), source=source)
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
        raise UserError(
            f"the tables do not fit on {runtime.world_size} x {runtime.device.type} under the given constraints: "
            f"{error}\n`python -m benchmarks.sharding what-if` shows which changes would make room"
        ) from error


def _memory(runtime: Runtime) -> tuple[int | None, int]:
    """Bytes per rank: GPU memory (None on CPU), and a rank's share of the host's memory."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cuda = runtime.device.type == "cuda"
    hbm = torch.cuda.get_device_properties(runtime.device).total_memory if cuda else None
    return hbm, host // ranks_per_host(runtime)


def ranks_per_host(runtime: Runtime) -> int:
    """The launcher's number. On CPU all ranks count as one host, since gloo reaches each of them at the same cost."""
    if runtime.device.type == "cpu":
        return runtime.world_size
    return launch().local_world_size


def cluster_shape(runtime: Runtime) -> ClusterShape:
    """The devices and ranks of this run, for which its plan is made."""
    return ClusterShape(device=runtime.device.type, ranks=runtime.world_size, ranks_per_host=ranks_per_host(runtime))


def _place_dense(model: nn.Module, device: torch.device) -> None:
    """Moves what is not on the meta device: the dense network and the constants of the objective."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)


@torch.no_grad()
def initialise_tables(model: nn.Module, *, seed: int, std: float) -> None:
    """Gives the sharded tables their initial values, which are the same under every plan.

    A table has the name that it has in an unsharded model.
    """
    law = Normal(std)
    for name, value in model.state_dict().items():
        if not isinstance(value, ShardedTensor):
            continue
        for local in value.local_shards():
            first_row, first_column = local.metadata.shard_offsets
            rows, width = local.tensor.shape
            for begin in range(0, rows, INIT_ROWS):
                end = min(begin + INIT_ROWS, rows)
                part = values(law, seed, name, value.size(), rows=slice(first_row + begin, first_row + end))
                local.tensor[begin:end] = part[:, first_column : first_column + width]


def plan_table(model: DistributedModelParallel) -> list[tuple[str, str, str]]:
    """(table, sharding type, ranks) of each table."""
    rows = []
    for module_plan in model.plan.plan.values():
        for table, sharding in module_plan.items():
            rows.append((table, sharding.sharding_type, ",".join(map(str, sharding.ranks or []))))
    return sorted(rows)
