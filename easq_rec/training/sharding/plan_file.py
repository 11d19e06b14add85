"""A sharding plan as readable JSON: `RUN_DIR/plan.json`, which another run may take with `--sharding.plan`.

    {"format": 1, "device": "cpu", "ranks": 2, "ranks_per_host": 2, "tables": {
    "video": {"rows": 64, "dim": 256, "type": "row_wise", "kernel": "fused", "shards":
        [{"rank": 0, "rows": [0, 32], "columns": [0, 256]}, {"rank": 1, "rows": [32, 64], "columns": [0, 256]}]}}}

Rows and columns are from the first to before the last. Ranks may be edited, and so may types, with the shards that
TorchRec makes of them; reading checks that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from easq_rec.training.sharding.constraints import allowed_kernels, allowed_types

FORMAT = 1
NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a plan is made for: it holds for no other."""

    device: str
    ranks: int
    ranks_per_host: int


def write_plan(path: Path, plan: ShardingPlan, schema: FeatureSchema, setting: Setting) -> None:
    """Writes a plan, one table per line."""
    tables = {table.name: table for table in _tables(schema)}
    entries = {
        name: _entry(tables[name], sharding) for part in plan.plan.values() for name, sharding in sorted(part.items())
    }
    head = json.dumps({"format": FORMAT, **dataclasses.asdict(setting)})
    body = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f'{head[:-1]}, "tables": {{\n{body}\n}}}}\n')
    partial.rename(path)


def read_plan_file(path: Path, model: nn.Module, schema: FeatureSchema, setting: Setting) -> ShardingPlan:
    """The plan of a file, for the collections of a model.

    Raises:
        ValueError: naming file, table and value, where it is no plan, was made for other tables, ranks or devices, or
            places a table in a way that its type does not.
    """
    where = f"sharding.plan={str(path)!r}"
    try:
        content = json.loads(path.read_text())
        form, found = content["format"], Setting(**{f.name: content[f.name] for f in dataclasses.fields(Setting)})
        entries: dict[str, dict[str, Any]] = dict(content["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} cannot be read as a plan: {error!r}") from error
    if form != FORMAT:
        raise ValueError(f"{where} has format {form!r}, this version reads format {FORMAT}")
    for field in dataclasses.fields(Setting):
        theirs, ours = getattr(found, field.name), getattr(setting, field.name)
        if theirs != ours:
            raise ValueError(f"{where} is for {field.name}={theirs!r}: this run has {ours!r}")
    modules = collections_of(model)
    for kind, names in (("unknown", set(entries) - set(modules)), ("missing", set(modules) - set(entries))):
        if names:
            raise ValueError(f"{where}: {kind} table {min(names)!r}: the model has {sorted(modules)}")
    tables = {table.name: table for table in _tables(schema)}
    plan: dict[str, EmbeddingModuleShardingPlan] = {}
    for name, entry in entries.items():
        place = f"{where}: table {name!r}"
        try:
            sharding = _sharding(tables[name], entry, schema, setting, place)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{place}: cannot be read: {error!r}") from error
        plan.setdefault(modules[name], EmbeddingModuleShardingPlan())[name] = sharding
    return ShardingPlan(plan=dict(plan))


def _entry(table: Table, sharding: ParameterSharding) -> dict[str, Any]:
    spec = sharding.sharding_spec
    assert isinstance(spec, EnumerableShardingSpec) and sharding.ranks is not None, table.name
    load = sharding.cache_params.load_factor if sharding.cache_params is not None else None
    return {
        "rows": table.rows,
        "dim": table.dim,
        "type": sharding.sharding_type,
        "kernel": sharding.compute_kernel,
        **({"load_factor": load} if load is not None and sharding.compute_kernel == CACHED else {}),
        "shards": [
            {
                "rank": rank,
                "rows": [part.shard_offsets[0], part.shard_offsets[0] + part.shard_sizes[0]],
                "columns": [part.shard_offsets[1], part.shard_offsets[1] + part.shard_sizes[1]],
            }
            for rank, part in zip(sharding.ranks, spec.shards, strict=True)
        ],
    }


def _sharding(
    table: Table, entry: dict[str, Any], schema: FeatureSchema, setting: Setting, place: str
) -> ParameterSharding:
    device = torch.device(setting.device)
    kind, kernel = entry["type"], entry["kernel"]
    for name, value, allowed in (
        ("rows", entry["rows"], (table.rows,)),
        ("dim", entry["dim"], (table.dim,)),
        ("type", kind, allowed_types(schema, table, device)),
        ("kernel", kernel, allowed_kernels(device)),
    ):
        if value not in allowed:
            raise ValueError(f"{place}: {name}={value!r} is not allowed: {' or '.join(map(repr, allowed))}")
    shards = [(part["rank"], part["rows"], part["columns"]) for part in entry["shards"]]
    bounds = [(list(rows), list(columns)) for _, rows, columns in shards]
    expected = _bounds(table, kind, bounds[0][1][1] - bounds[0][1][0] if bounds else 0, setting)
    if bounds != expected:
        raise ValueError(
            f"{place}: shards {_shown(bounds)} are not those of type {kind!r} over {setting.ranks} ranks, which are "
            f"{_shown(expected)} (rows, columns)"
        )
    ranks = [rank for rank, _, _ in shards]
    if not _ranks_fit(ranks, kind, setting):
        raise ValueError(f"{place}: ranks {ranks} are not allowed: {_rank_rule(kind, setting)}")
    load = entry.get("load_factor")
    return ParameterSharding(
        sharding_type=kind,
        compute_kernel=kernel,
        ranks=ranks,
        sharding_spec=EnumerableShardingSpec(
            [
                ShardMetadata(
                    shard_offsets=[rows[0], columns[0]],
                    shard_sizes=[rows[1] - rows[0], columns[1] - columns[0]],
                    placement=placement(setting.device, rank, setting.ranks_per_host),
                )
                for rank, rows, columns in shards
            ]
        ),
        cache_params=CacheParams(load_factor=load) if kernel == CACHED else None,
    )


def _bounds(table: Table, kind: str, width: int, setting: Setting) -> list[tuple[list[int], list[int]]]:
    """(rows, columns) of the shards that TorchRec makes, `width` columns wide where the type splits these."""
    sizes, offsets = calculate_shard_sizes_and_offsets(
        tensor=torch.empty(table.rows, table.dim, device="meta"),
        world_size=setting.ranks,
        local_world_size=setting.ranks_per_host,
        sharding_type=kind,
        # A width that does not divide the table's makes other shards, which the comparison finds.
        col_wise_shard_dim=width if kind in COLUMN_TYPES and width > 0 else None,
    )
    return [
        ([offset[0], offset[0] + size[0]], [offset[1], offset[1] + size[1]])
        for size, offset in zip(sizes, offsets, strict=True)
    ]


def _ranks_fit(ranks: list[int], kind: str, setting: Setting) -> bool:
    """Whether a type may have its shards on these ranks, in this order."""
    if not all(isinstance(rank, int) and 0 <= rank < setting.ranks for rank in ranks):
        return False
    local = setting.ranks_per_host
    match kind:
        case "row_wise":
            return ranks == list(range(setting.ranks))
        case "table_row_wise" | "grid_shard":
            hosts = [ranks[first : first + local] for first in range(0, len(ranks), local)]
            return all(part == list(range(part[0], part[0] + local)) and part[0] % local == 0 for part in hosts)
        case "table_column_wise":
            return len({rank // local for rank in ranks}) == 1
        case _:
            return True


def _rank_rule(kind: str, setting: Setting) -> str:
    whole = f"from 0 to {setting.ranks - 1}"
    match kind:
        case "row_wise":
            return f"each rank {whole}, in order"
        case "table_row_wise" | "grid_shard":
            return f"{whole}, all ranks of a host in order (hosts have {setting.ranks_per_host})"
        case "table_column_wise":
            return f"{whole}, all of one host (hosts have {setting.ranks_per_host} ranks)"
        case _:
            return whole


def collections_of(model: nn.Module) -> dict[str, str]:
    """By table the path of its collection, in a model that is not sharded yet."""
    return dict(_modules(model))


def _modules(model: nn.Module) -> Iterator[tuple[str, str]]:
    for path, module in model.named_modules():
        if isinstance(module, EmbeddingBagCollection):
            yield from ((config.name, path) for config in module.embedding_bag_configs())
        elif isinstance(module, EmbeddingCollection):
            yield from ((config.name, path) for config in module.embedding_configs())


def _tables(schema: FeatureSchema) -> Iterable[Table]:
    return (*schema.tables, *schema.satisfaction_tables)


def _shown(bounds: list[tuple[list[int], list[int]]]) -> str:
    return ", ".join(f"{rows} x {columns}" for rows, columns in bounds[:4]) + (", ..." if len(bounds) > 4 else "")
