"""Conversion between TorchRec's sharding plan and the one in a plan file.

A user may edit a plan file: the ranks of its shards, and the types of its tables together with the shards that
TorchRec makes for a type. The conversion to TorchRec's plan checks all of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from torchrec.distributed.sharding_plan import calculate_shard_sizes_and_offsets, placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from easq_rec.config.schema import FeatureSchema, Table
from easq_rec.config.sharding import CACHED, COLUMN_TYPES
from easq_rec.errors import UserError
from easq_rec.run_directory.plan_file import ClusterShape, PlacedShard, PlacedTable, PlacementPlan
from easq_rec.training.sharding.constraints import allowed_kernels, allowed_types

Ranges = list[tuple[tuple[int, int], tuple[int, int]]]
"""(rows, columns) of each shard, both from the first to before the last."""


def placement_plan(plan: ShardingPlan, schema: FeatureSchema, shape: ClusterShape) -> PlacementPlan:
    """A plan of TorchRec in the form in which it is written to a file."""
    tables = _tables(schema)
    placed = {
        name: _placed(tables[name], sharding)
        for collection in plan.plan.values()
        for name, sharding in sorted(cast(EmbeddingModuleShardingPlan, collection).items())
    }
    return PlacementPlan(shape=shape, tables=placed)


def sharding_plan(
    plan: PlacementPlan, model: nn.Module, schema: FeatureSchema, shape: ClusterShape, *, source: str
) -> ShardingPlan:
    """A plan for TorchRec.

    Args:
        model: holds the collections of tables, before it is sharded.
        shape: the devices and ranks of this run.
        source: what errors call the plan.

    Raises:
        UserError: the plan was made for other tables, ranks or devices, or places a table in a way that its type does
            not allow. Names source, table and value.
    """
    for field in dataclasses.fields(ClusterShape):
        theirs, ours = getattr(plan.shape, field.name), getattr(shape, field.name)
        if theirs != ours:
            raise UserError(f"{source} is for {field.name}={theirs!r}: this run has {ours!r}")
    collections = collections_of(model)
    for kind, names in (("unknown", plan.tables.keys() - collections), ("missing", collections.keys() - plan.tables)):
        if names:
            raise UserError(f"{source}: {kind} table {min(names)!r}: the model has {sorted(collections)}")
    tables = _tables(schema)
    found: dict[str, EmbeddingModuleShardingPlan] = {}
    for name, placed in plan.tables.items():
        _check(tables[name], placed, schema, shape, f"{source}: table {name!r}")
        found.setdefault(collections[name], EmbeddingModuleShardingPlan())[name] = _sharding(placed, shape)
    return ShardingPlan(plan=dict(found))


def _placed(table: Table, sharding: ParameterSharding) -> PlacedTable:
    spec = sharding.sharding_spec
    assert isinstance(spec, EnumerableShardingSpec) and sharding.ranks is not None, table.name
    cache = sharding.cache_params if sharding.compute_kernel == CACHED else None
    return PlacedTable(
        rows=table.rows,
        dim=table.dim,
        type=sharding.sharding_type,
        kernel=sharding.compute_kernel,
        load_factor=cache.load_factor if cache is not None else None,
        shards=tuple(
            PlacedShard(rank=rank, rows=rows, columns=columns)
            for rank, (rows, columns) in zip(sharding.ranks, _ranges(spec.shards), strict=True)
        ),
    )


def _ranges(shards: list[ShardMetadata]) -> Ranges:
    return [_range(shard.shard_sizes, shard.shard_offsets) for shard in shards]


def _range(sizes: list[int], offsets: list[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = ((offset, offset + size) for size, offset in zip(sizes, offsets, strict=True))
    return rows, columns


def _sharding(placed: PlacedTable, shape: ClusterShape) -> ParameterSharding:
    shards = [
        ShardMetadata(
            shard_offsets=[shard.rows[0], shard.columns[0]],
            shard_sizes=[shard.rows[1] - shard.rows[0], shard.columns[1] - shard.columns[0]],
            placement=placement(shape.device, shard.rank, shape.ranks_per_host),
        )
        for shard in placed.shards
    ]
    return ParameterSharding(
        sharding_type=placed.type,
        compute_kernel=placed.kernel,
        ranks=placed.ranks,
        sharding_spec=EnumerableShardingSpec(shards),
        cache_params=CacheParams(load_factor=placed.load_factor) if placed.kernel == CACHED else None,
    )


def _check(table: Table, placed: PlacedTable, schema: FeatureSchema, shape: ClusterShape, place: str) -> None:
    """Raises UserError as `sharding_plan` does; `place` is how its message begins."""
    device = torch.device(shape.device)
    allowed: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("rows", placed.rows, (table.rows,)),
        ("dim", placed.dim, (table.dim,)),
        ("type", placed.type, allowed_types(schema, table, device)),
        ("kernel", placed.kernel, allowed_kernels(device)),
    )
    for name, value, values in allowed:
        if value not in values:
            raise UserError(f"{place}: {name}={value!r} is not allowed: {' or '.join(map(repr, values))}")
    ranges = [(shard.rows, shard.columns) for shard in placed.shards]
    width = placed.shards[0].columns[1] - placed.shards[0].columns[0] if placed.shards else 0
    expected = _expected_ranges(table, placed.type, width, shape)
    if ranges != expected:
        raise UserError(
            f"{place}: shards {_listed(ranges)} are not those of type {placed.type!r} over {shape.ranks} ranks, which "
            f"are {_listed(expected)} (rows, columns)"
        )
    if not _ranks_fit(placed.ranks, placed.type, shape):
        raise UserError(f"{place}: ranks {placed.ranks} are not allowed: {_rank_rule(placed.type, shape)}")


def _expected_ranges(table: Table, kind: str, width: int, shape: ClusterShape) -> Ranges:
    """The shards that TorchRec makes, `width` columns wide if the type splits columns."""
    sizes, offsets = calculate_shard_sizes_and_offsets(
        tensor=torch.empty(table.rows, table.dim, device="meta"),
        world_size=shape.ranks,
        local_world_size=shape.ranks_per_host,
        sharding_type=kind,
        # A width that does not divide the table's gives other shards than the file's, and the file is refused.
        col_wise_shard_dim=width if kind in COLUMN_TYPES and width > 0 else None,
    )
    return [_range(size, offset) for size, offset in zip(sizes, offsets, strict=True)]


def _ranks_fit(ranks: list[int], kind: str, shape: ClusterShape) -> bool:
    """Whether a type may have its shards on these ranks, in this order."""
    if not all(isinstance(rank, int) and 0 <= rank < shape.ranks for rank in ranks):
        return False
    local = shape.ranks_per_host
    match kind:
        case "row_wise":
            return ranks == list(range(shape.ranks))
        case "table_row_wise" | "grid_shard":
            hosts = [ranks[first : first + local] for first in range(0, len(ranks), local)]
            return all(part == list(range(part[0], part[0] + local)) and part[0] % local == 0 for part in hosts)
        case "table_column_wise":
            return len({rank // local for rank in ranks}) == 1
        case _:
            return True


def _rank_rule(kind: str, shape: ClusterShape) -> str:
    whole = f"from 0 to {shape.ranks - 1}"
    match kind:
        case "row_wise":
            return f"each rank {whole}, in order"
        case "table_row_wise" | "grid_shard":
            return f"{whole}, all ranks of a host in order (hosts have {shape.ranks_per_host})"
        case "table_column_wise":
            return f"{whole}, all of one host (hosts have {shape.ranks_per_host} ranks)"
        case _:
            return whole


def collections_of(model: nn.Module) -> dict[str, str]:
    """The path of each table's collection by table, in a model that is not sharded yet."""
    return dict(_tables_and_paths(model))


def _tables_and_paths(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        if isinstance(module, EmbeddingBagCollection):
            yield from ((config.name, path) for config in module.embedding_bag_configs())
        elif isinstance(module, EmbeddingCollection):
            yield from ((config.name, path) for config in module.embedding_configs())


def _tables(schema: FeatureSchema) -> dict[str, Table]:
    return {table.name: table for table in (*schema.tables, *schema.satisfaction_tables)}


def _listed(ranges: Ranges) -> str:
    """The first ranges for a message."""
    shown = ", ".join(f"{list(rows)} x {list(columns)}" for rows, columns in ranges[:4])
    return shown + (", ..." if len(ranges) > 4 else "")
