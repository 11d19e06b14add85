"""Per-table constraints and plan files, in one process, because the planner can plan for ranks that do not run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, ShardingOption
from torchrec.distributed.types import ShardingPlan

from easq_rec.config import Config, Sharding, TableSharding
from easq_rec.config.schema import Table
from easq_rec.config.serialization import to_dict
from easq_rec.config.sharding import CACHED, COLUMN_TYPES, TYPES
from easq_rec.errors import UserError
from easq_rec.model.embeddings import RequestEmbeddings
from easq_rec.run_directory.config_file import _differences, _fixed
from easq_rec.run_directory.plan_file import ClusterShape, read_plan, write_plan
from easq_rec.training.sharding.constraints import allowed_kernels, allowed_types, constraints, pins
from easq_rec.training.sharding.plan_conversion import placement_plan, sharding_plan
from easq_rec.upstream.torchrec_planner import PinningPartitioner
from tests.builders import small_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RANKS = 4
SHAPE = ClusterShape(device="cpu", ranks=RANKS, ranks_per_host=RANKS)
WIDE = {"user": 256, "age_group": 256, "region": 256, "device": 256}


def config_with(**tables: TableSharding) -> Config:
    config = small_config()
    wide = tuple(dataclasses.replace(t, dim=WIDE.get(t.name, t.dim)) for t in config.schema.tables)
    schema = dataclasses.replace(config.schema, tables=wide)
    return dataclasses.replace(config, schema=schema, sharding=Sharding(tables=tables))


def embeddings(config: Config) -> nn.Module:
    return RequestEmbeddings(config.schema, torch.device("meta"), satisfaction=True)


def planned(config: Config, *, room: int = 2**30, per_host: int = RANKS, device: torch.device = CPU) -> ShardingPlan:
    hbm = room if device.type == "cuda" else None
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=RANKS, local_world_size=per_host, compute_device=device.type, ddr_cap=room, hbm_cap=hbm
        ),
        constraints=constraints(config, device, RANKS),
        partitioner=PinningPartitioner(pins(config)),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
    )
    return planner.plan(embeddings(config), [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()])


def write(path: Path, plan: ShardingPlan, config: Config, shape: ClusterShape = SHAPE) -> None:
    write_plan(path, placement_plan(plan, config.schema, shape))


def read(path: Path, config: Config, shape: ClusterShape = SHAPE) -> ShardingPlan:
    source = f"sharding.plan={str(path)!r}"
    return sharding_plan(read_plan(path, source=source), embeddings(config), config.schema, shape, source=source)


def where(plan: ShardingPlan) -> dict[str, tuple[str, list[int], list[list[int]]]]:
    return {
        name: (table.sharding_type, table.ranks, [part.shard_sizes for part in table.sharding_spec.shards])
        for part in plan.plan.values()
        for name, table in part.items()
    }


def test_pinned_tables_are_placed_on_their_ranks() -> None:
    found = where(
        planned(
            config_with(
                video=TableSharding(type="table_wise", ranks=(3,)),
                user=TableSharding(type="column_wise", min_partition=64, ranks=(2, 1)),
                author=TableSharding(type="row_wise"),
            )
        )
    )
    assert found["video"] == ("table_wise", [3], [[64, 8]])
    assert found["user"] == ("column_wise", [2, 1, 2, 1], [[40, 64]] * 4)
    assert found["author"][:2] == ("row_wise", [0, 1, 2, 3])


def test_other_tables_are_balanced_around_pinned_tables() -> None:
    """Three wide tables are placed on the three ranks to which the fourth one is not pinned."""
    whole = {name: TableSharding(type="table_wise") for name in WIDE}
    config = config_with(**(whole | {"user": TableSharding(type="table_wise", ranks=(1,))}))
    (user,), _ = options(config, "user", room=2**30)
    found = where(planned(config, room=int(1.5 * user.total_storage.ddr)))
    assert found["user"][1] == [1]
    assert sorted(found[name][1][0] for name in WIDE) == [0, 1, 2, 3]


def test_a_pinned_table_without_enough_memory_is_an_error() -> None:
    config = config_with(user=TableSharding(type="table_wise", ranks=(1,)))
    with pytest.raises(PlannerError, match="Table user is pinned to rank 1, which has too little memory for it"):
        PinningPartitioner(pins(config)).partition(*options(config, "user", room=1_000))


def options(config: Config, table: str, *, room: int) -> tuple[list[ShardingOption], Topology]:
    """All sharding options of a table on ranks with `room` bytes of memory, and the topology of these ranks."""
    topology = Topology(world_size=RANKS, compute_device="cpu", ddr_cap=room)
    enumerator = EmbeddingEnumerator(topology=topology, batch_size=512, constraints=constraints(config, CPU, RANKS))
    space = enumerator.enumerate(embeddings(config), [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()])
    return [option for option in space if option.name == table], topology


@pytest.mark.parametrize(
    ("table", "fixed", "device", "message"),
    [
        (
            "user",
            TableSharding(type="row_wise"),
            CPU,
            r"\['user'\].type='row_wise' .* on cpu one of \['table_wise', 'col",
        ),
        (
            "video",
            TableSharding(type="grid_shard"),
            CUDA,
            r"\['video'\].type='grid_shard' .* on cuda one of \['table_wise",
        ),
        (
            "tag",
            TableSharding(type="grid_shard"),
            CUDA,
            r"\['tag'\].type='grid_shard' .* on cuda one of \['table_wise'",
        ),
        (
            "user",
            TableSharding(kernel="fused_uvm"),
            CPU,
            r"\['user'\].kernel='fused_uvm' .*: on cpu one of \['fused'\]",
        ),
        (
            "tag",
            TableSharding(type="column_wise", ranks=(0, 4)),
            CPU,
            r"\['tag'\].ranks=\(0, 4\) .*: from 0 to 3, this",
        ),
    ],
)
def test_unsupported_constraints_are_refused(
    table: str, fixed: TableSharding, device: torch.device, message: str
) -> None:
    with pytest.raises(ValueError, match=r"sharding.tables" + message):
        constraints(config_with(**{table: fixed}), device, RANKS)


def test_column_types_are_offered_only_for_tables_with_enough_columns() -> None:
    found = constraints(config_with(tag=TableSharding(min_partition=4)), CPU, RANKS)
    assert found["author"].sharding_types == ["table_wise", "row_wise"]
    assert found["satisfaction_tag"].sharding_types == ["table_wise"]
    for wide in ("user", "tag"):
        assert found[wide].sharding_types == ["table_wise", "column_wise", "table_column_wise"]
    forced = constraints(config_with(author=TableSharding(type="column_wise")), CPU, RANKS)
    assert forced["author"].sharding_types == ["column_wise"]


def test_grid_sharding_is_allowed_only_for_sum_pooling() -> None:
    assert allowed_types(config_with().schema, table("user"), CUDA)[-1] == "grid_shard"
    assert "grid_shard" not in allowed_types(config_with().schema, table("tag"), CUDA)
    assert "grid_shard" not in allowed_types(config_with().schema, table("satisfaction_tag"), CUDA)


def table(name: str) -> Table:
    schema = config_with().schema
    return next(table for table in (*schema.tables, *schema.satisfaction_tables) if table.name == name)


def test_rows_that_are_reset_are_not_cached() -> None:
    config = config_with(video=TableSharding(kernel=CACHED, load_factor=0.1))
    constraints(config, CUDA, RANKS)
    tables = tuple(
        dataclasses.replace(table, id_space="admitted") if table.name == "video" else table
        for table in config.schema.tables
    )
    config = dataclasses.replace(config, schema=dataclasses.replace(config.schema, tables=tables))
    with pytest.raises(UserError, match="fused_uvm_caching' is not allowed"):
        constraints(config, CUDA, RANKS)


def test_kernels_and_caches_reach_the_planner() -> None:
    found = constraints(config_with(tag=TableSharding(kernel="fused_uvm_caching", load_factor=0.1)), CUDA, RANKS)
    assert found["tag"].compute_kernels == ["fused_uvm_caching"]
    assert found["tag"].cache_params.load_factor == 0.1
    assert found["user"].compute_kernels == ["fused"]
    assert found["user"].cache_params is None


VARIED = {
    "video": TableSharding(type="row_wise"),
    "user": TableSharding(type="column_wise", ranks=(3, 0)),
    "region": TableSharding(type="table_column_wise", min_partition=64),
    "tag": TableSharding(type="table_wise", ranks=(2,)),
}


def test_a_plan_is_unchanged_after_writing_and_reading(tmp_path: Path) -> None:
    config = config_with(**VARIED)
    plan = planned(config)
    write(tmp_path / "plan.json", plan, config)
    assert read(tmp_path / "plan.json", config) == plan


def tables_that_allow(kind: str, device: torch.device) -> list[str]:
    schema = config_with().schema
    tables = (*schema.tables, *schema.satisfaction_tables)
    return [table.name for table in tables if kind in allowed_types(schema, table, device)]


@pytest.mark.parametrize(
    ("device", "kind", "kernel"),
    [
        (device, kind, kernel)
        for device in (CPU, CUDA)
        for kind in TYPES
        for kernel in allowed_kernels(device)
        if tables_that_allow(kind, device)
    ],
)
def test_plans_of_every_type_and_kernel_are_unchanged_after_reading(
    tmp_path: Path, device: torch.device, kind: str, kernel: str
) -> None:
    """A resumed run has exactly the plan with which its checkpoint was written."""
    per_host = 2 if device == CUDA else RANKS
    shape = ClusterShape(device=device.type, ranks=RANKS, ranks_per_host=per_host)
    fixed = TableSharding(
        type=kind,
        kernel=kernel,
        load_factor=0.3 if kernel == CACHED else None,
        min_partition=4 if kind in COLUMN_TYPES else None,
    )
    names = tables_that_allow(kind, device)
    config = config_with(**dict.fromkeys(names, fixed))
    plan = planned(config, per_host=per_host, device=device)
    assert {where(plan)[name][0] for name in names} == {kind}
    write(tmp_path / "plan.json", plan, config, shape)
    assert read(tmp_path / "plan.json", config, shape) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=9), r"has format 9, this version reads format 1"),
        (lambda c: c.update(ranks=8), r"is for ranks=8: this run has 4"),
        (lambda c: c.update(device="cuda"), r"is for device='cuda': this run has 'cpu'"),
        (lambda c: c.pop("tables"), r"cannot be read as a plan: KeyError\('tables'\)"),
        (lambda c: c["tables"].pop("tag"), r"missing table 'tag': the model has \["),
        (lambda c: c["tables"].update(film=c["tables"]["tag"]), r"unknown table 'film': the model has \["),
        (lambda c: c["tables"]["tag"].update(rows=8), r"table 'tag': rows=8 is not allowed: 256"),
        (
            lambda c: c["tables"]["tag"].update(type="data_parallel"),
            r"table 'tag': type='data_parallel' is not allowed",
        ),
        (
            lambda c: c["tables"]["tag"].update(kernel="fused_uvm"),
            r"table 'tag': kernel='fused_uvm' is not allowed: 'fu",
        ),
        (lambda c: c["tables"]["tag"].pop("shards"), r"table 'tag': cannot be read: KeyError\('shards'\)"),
        (lambda c: c["tables"]["tag"].update(shards=[]), r"table 'tag': shards  are not those of type 'table_wise'"),
        (
            lambda c: c["tables"]["tag"]["shards"][0].update(rank=4),
            r"table 'tag': ranks \[4\] are not allowed: from 0 to 3",
        ),
        (
            lambda c: c["tables"]["video"]["shards"][0].update(rows=[0, 15]),
            r"table 'video': shards \[0, 15\] x \[0, 8\], .* are not those of type 'row_wise' over 4 ranks, which",
        ),
        (
            lambda c: c["tables"]["video"]["shards"].reverse(),
            r"table 'video': shards \[48, 64\] x .* are not those of type 'row_wise'",
        ),
        (
            lambda c: c["tables"]["video"]["shards"][0].update(rank=3),
            r"table 'video': ranks \[3, 1, 2, 3\] are not allowed: each rank from 0 to 3, in order",
        ),
        (
            lambda c: c["tables"]["user"]["shards"].pop(),
            r"table 'user': shards \[0, 40\] x \[0, 128\] are not those of type 'column_wise'",
        ),
    ],
)
def test_a_plan_file_that_does_not_match_the_run_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    config, path = config_with(**VARIED), tmp_path / "plan.json"
    write(path, planned(config), config)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sharding.plan='.*plan.json'.*" + message):
        read(path, config)


def test_table_column_wise_shards_must_be_on_one_host(tmp_path: Path) -> None:
    config, path = config_with(**VARIED), tmp_path / "plan.json"
    two_hosts = dataclasses.replace(SHAPE, ranks_per_host=2)
    write(path, planned(config, per_host=2), config, two_hosts)
    content = json.loads(path.read_text())
    for rank, part in enumerate(content["tables"]["region"]["shards"]):
        part["rank"] = rank
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"table 'region': ranks \[0, 1, 2, 3\] are not allowed: .* all of one host"):
        read(path, config, two_hosts)


def test_a_file_that_is_not_a_plan_is_refused(tmp_path: Path) -> None:
    config = config_with()
    for text in ("{", "[]", '{"format": 1}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"sharding.plan='.*other.json' cannot be read as a plan"):
            read(tmp_path / "other.json", config)
    with pytest.raises(ValueError, match="cannot be read as a plan: FileNotFoundError"):
        read(tmp_path / "none.json", config)


def test_constraints_are_part_of_the_configuration_and_a_plan_file_is_not() -> None:
    now = json.loads(json.dumps(to_dict(small_config())))
    rounded = {**now, "sharding": {**now["sharding"], "messages": "fp16"}}
    assert _differences(_fixed(now), _fixed(rounded)) == ["sharding.messages is 'fp32' there, 'fp16' here"]
    planned_by_file = {**now, "sharding": {**now["sharding"], "plan": "plan.json"}}
    assert not _differences(_fixed(now), _fixed(planned_by_file))
    constrained = json.loads(json.dumps(to_dict(config_with(tag=TableSharding(type="table_wise")))))
    (difference,) = _differences(_fixed({**constrained, "sharding": now["sharding"]}), _fixed(constrained))
    assert difference.startswith("sharding.tables.tag is None there, {'type': 'table_wise', ")
