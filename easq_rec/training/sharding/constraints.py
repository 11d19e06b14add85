"""Constraints of the planner: types and kernels that work on the device, and what the config fixes for a table."""

from __future__ import annotations

import torch
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams

from easq_rec.config import Config
from easq_rec.config.schema import FeatureSchema, Table
from easq_rec.config.sharding import CACHED, COLUMN_TYPES, KERNELS, TableSharding
from easq_rec.errors import UserError

# These types train correctly with unequal batches per rank. Row-wise bags need equal batches under gloo. Data-parallel
# collections are wrong in FBGEMM's CPU kernels, and the fused optimizer does not update replicated tables.
POOLED_CPU = ("table_wise", "column_wise", "table_column_wise")
SEQUENCE_CPU = ("table_wise", "row_wise", "column_wise")
POOLED_CUDA = ("table_wise", "column_wise", "table_column_wise", "row_wise", "table_row_wise", "grid_shard")
# With grid_shard every rank divides a bag by the number of ids that this rank holds. TorchRec 1.8 divides by all ids of
# the bag only with row_wise and table_row_wise.
POOLED_CUDA_MEAN = tuple(kind for kind in POOLED_CUDA if kind != "grid_shard")
# TorchRec shards unpooled collections only in these three ways.
SEQUENCE_CUDA = SEQUENCE_CPU

NARROWEST = 128
"""TorchRec's default for the fewest columns of a shard."""


def allowed_types(schema: FeatureSchema, table: Table, device: torch.device) -> tuple[str, ...]:
    """Sharding types that train a table correctly on a device."""
    sequence = table.name in {feature.table for feature in schema.sequence}
    if device.type == "cuda":
        return SEQUENCE_CUDA if sequence else POOLED_CUDA if summed(schema, table) else POOLED_CUDA_MEAN
    return SEQUENCE_CPU if sequence else POOLED_CPU


def summed(schema: FeatureSchema, table: Table) -> bool:
    """Whether the bags of a table are sums. Bags of single ids are."""
    bags = (*schema.user, *schema.pooled, *schema.satisfaction_ids)
    return not any(bag.table == table.name and bag.kind == "id_list" and bag.pooling == "mean" for bag in bags)


def allowed_kernels(device: torch.device) -> tuple[str, ...]:
    """Compute kernels that exist on a device."""
    return KERNELS if device.type == "cuda" else KERNELS[:1]


def constraints(config: Config, device: torch.device, world_size: int) -> dict[str, ParameterConstraints]:
    """The planner's constraints by table.

    Raises:
        UserError: the config fixes what the device or the number of ranks does not support. Names table, field, value
            and the allowed values.
    """
    found = {}
    for table in (*config.schema.tables, *config.schema.satisfaction_tables):
        fixed = config.sharding.of(table.name)
        types, kernels = allowed_types(config.schema, table, device), allowed_kernels(device)
        if table.id_space == "admitted":
            # A reset of a row would not reach its copy in the cache.
            kernels = tuple(kernel for kernel in kernels if kernel != CACHED)
        check_supported(table.name, fixed, types, kernels, device, world_size)
        # On one rank there is nothing to split, and other types only add work. A narrow table has no columns to split:
        # a column type would leave it whole, and every further type in a collection adds collectives to each step.
        splits = table.dim >= 2 * (fixed.min_partition or NARROWEST)
        useful = [kind for kind in types if splits or kind not in COLUMN_TYPES]
        offered = [fixed.type] if fixed.type else useful if world_size > 1 else ["table_wise"]
        found[table.name] = ParameterConstraints(
            sharding_types=offered,
            compute_kernels=[fixed.kernel or "fused"],
            min_partition=fixed.min_partition,
            cache_params=CacheParams(load_factor=fixed.load_factor) if fixed.kernel == CACHED else None,
        )
    return found


def check_supported(
    table: str,
    fixed: TableSharding,
    types: tuple[str, ...],
    kernels: tuple[str, ...],
    device: torch.device,
    world_size: int,
) -> None:
    """Raises UserError as `constraints` does."""
    where = f"sharding.tables[{table!r}]"
    if fixed.type is not None and fixed.type not in types:
        raise UserError(f"{where}.type={fixed.type!r} is not allowed: on {device.type} one of {list(types)}")
    if fixed.kernel is not None and fixed.kernel not in kernels:
        raise UserError(f"{where}.kernel={fixed.kernel!r} is not allowed: on {device.type} one of {list(kernels)}")
    if fixed.ranks is not None and max(fixed.ranks) >= world_size:
        raise UserError(f"{where}.ranks={fixed.ranks} is not allowed: from 0 to {world_size - 1}, this run's ranks")


def pins(config: Config) -> dict[str, tuple[int, ...]]:
    """Ranks by pinned table."""
    return {table: fixed.ranks for table, fixed in config.sharding.tables.items() if fixed.ranks is not None}
