"""The sharding cases that run on real ranks, and the plans that force them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.distributed.sharding_plan import calculate_shard_sizes_and_offsets, placement
from torchrec.distributed.types import (
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)

from benchmarks.sharding.planning import tables_of
from easq_rec.config.schema import FeatureSchema, Table
from easq_rec.config.sharding import COLUMN_TYPES
from easq_rec.run_directory.plan_file import ClusterShape
from easq_rec.training.sharding.constraints import summed

ROW_TYPES = ("row_wise", "table_row_wise", "grid_shard")
"""Types whose bags use a reduce-scatter, which needs the same number of bags on every rank."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to shard all tables."""

    name: str
    bags: str | None = None
    """Type of the pooled tables; None: the planner chooses among the trainer's types."""
    sequences: str = "table_wise"
    half: bool = False
    """Whether tables are in FP16."""
    precision: str | None = None
    """Precision of embeddings and gradients between ranks; None: unchanged."""

    flawed: bool = False
    """Whether mean-pooled bags also use grid_shard, which is wrong in TorchRec 1.8; else row_wise."""

    @property
    def padded(self) -> bool:
        """Whether the pooled collections' batches are padded to the longest of all ranks."""
        return self.bags in ROW_TYPES

    @property
    def exact(self) -> bool:
        """Whether it must train exactly like the unsharded model."""
        return not self.half and self.precision is None


CASES = (
    Case(name="planner"),
    Case(name="table_wise", bags="table_wise"),
    Case(name="column_wise", bags="column_wise", sequences="column_wise"),
    Case(name="table_column_wise", bags="table_column_wise", sequences="column_wise"),
    Case(name="row_wise sequences", bags="table_wise", sequences="row_wise"),
    Case(name="row_wise", bags="row_wise", sequences="row_wise"),
    Case(name="table_row_wise", bags="table_row_wise", sequences="row_wise"),
    Case(name="grid_shard", bags="grid_shard", sequences="column_wise"),
    Case(name="grid_shard, means too", bags="grid_shard", sequences="column_wise", flawed=True),
    Case(name="data_parallel, dense", bags="data_parallel"),
    # The following cases are not exact: they are compared with `table_wise` and `row_wise`, and these with themselves.
    Case(name="table_wise again", bags="table_wise"),
    Case(name="table_wise, FP16 tables", bags="table_wise", half=True),
    *(
        Case(name=f"table_wise, {precision} messages", bags="table_wise", precision=precision)
        for precision in ("fp16", "bf16", "int8")
    ),
    *(
        Case(name=f"row_wise, {precision} messages", bags="row_wise", sequences="row_wise", precision=precision)
        for precision in ("fp16", "bf16", "int8")
    ),
)
"""INT8 with row_wise shows a failure: a reduce-scatter cannot add INT8 codes. There are no data-parallel collections,
because FBGEMM's CPU kernels pool them, and no BF16 tables, because they fail there."""


def forced_plan(case: Case, schema: FeatureSchema, modules: dict[str, str], shape: ClusterShape) -> ShardingPlan:
    """Places every table by the case's types, with columns split in two; free shards go to the emptiest ranks.

    Args:
        modules: path of each table's collection.
    """
    assert case.bags is not None
    sequences = {feature.table for feature in schema.sequence}
    plan: dict[str, EmbeddingModuleShardingPlan] = {}
    load = [0] * shape.ranks
    for table in sorted(tables_of(schema), key=lambda table: -table.rows * table.dim):
        kind = case.sequences if table.name in sequences else case.bags
        if kind == "grid_shard" and not summed(schema, table) and not case.flawed:
            kind = "table_row_wise"
        sharding = _sharding(table, kind, load, shape)
        plan.setdefault(modules[table.name], EmbeddingModuleShardingPlan())[table.name] = sharding
    return ShardingPlan(plan=dict(plan))


def _sharding(table: Table, kind: str, load: list[int], shape: ClusterShape) -> ParameterSharding:
    if kind == "data_parallel":
        return ParameterSharding(sharding_type=kind, compute_kernel="dense", ranks=list(range(shape.ranks)))
    sizes, offsets = calculate_shard_sizes_and_offsets(
        tensor=torch.empty(table.rows, table.dim, device="meta"),
        world_size=shape.ranks,
        local_world_size=shape.ranks_per_host,
        sharding_type=kind,
        col_wise_shard_dim=max(table.dim // 2, 4) if kind in COLUMN_TYPES else None,
    )
    owners = _owners(kind, sizes, load, shape.ranks_per_host)
    shards = [
        ShardMetadata(
            shard_offsets=offset,
            shard_sizes=size,
            placement=placement(shape.device, owner, shape.ranks_per_host),
        )
        for size, offset, owner in zip(sizes, offsets, owners, strict=True)
    ]
    return ParameterSharding(
        sharding_type=kind, compute_kernel="fused", ranks=owners, sharding_spec=EnumerableShardingSpec(shards)
    )


def _owners(kind: str, sizes: list[list[int]], load: list[int], local: int) -> list[int]:
    """A rank for each shard, whose size is added to its load."""
    hosts = [range(first, first + local) for first in range(0, len(load), local)]
    emptiest = min(hosts, key=lambda host: sum(load[rank] for rank in host))
    owners: list[int] = []
    for index, (rows, columns) in enumerate(sizes):
        match kind:
            case "row_wise":
                owner = index
            case "table_row_wise":
                owner = emptiest[index]
            case "grid_shard":
                # A block of columns per host, from the emptiest on.
                owner = hosts[(hosts.index(emptiest) + index // local) % len(hosts)][index % local]
            case "table_column_wise":
                owner = min(emptiest, key=load.__getitem__)
            case _:
                owner = load.index(min(load))
        load[owner] += rows * columns
        owners.append(owner)
    return owners
