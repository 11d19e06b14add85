"""Plans for hypothetical hardware place every row once and within each rank's memory, and changes make tables fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.sharding.__main__ import main
from benchmarks.sharding.changes import try_changes
from benchmarks.sharding.hosts import GB, HOSTS
from benchmarks.sharding.planning import Cluster, NoPlan, Offer, Plan, Workload, find_plan, on_paper, tables_of
from benchmarks.sharding.presets import schema_of
from benchmarks.sharding.whatif import what_if, write
from easq_rec.config.schema import Feature, FeatureSchema, Outcome, Table
from easq_rec.run_directory.plan_file import ClusterShape, read_plan
from easq_rec.training.sharding.plan_conversion import sharding_plan

WORK = Workload(requests=16)
HOST = dataclasses.replace(HOSTS["a100"], name="small", hbm=1 * GB, ddr=8 * GB)
ANY = Offer()
TWO = Cluster(host=HOST, hosts=1, gpus=2)


def schema(*, videos: int, dim: int = 128) -> FeatureSchema:
    """A table `cross` with `videos` rows, and two small tables."""
    return FeatureSchema(
        tables=(
            Table(name="user", rows=1_000, dim=dim),
            Table(name="video", rows=1_000, dim=dim),
            Table(name="cross", rows=videos, dim=dim),
        ),
        user=(Feature(name="user_id", table="user"),),
        history=(Feature(name="video_id", table="video"),),
        candidate=(Feature(name="video_id", table="video"), Feature(name="cross", table="cross")),
        outcomes=(Outcome(name="like", weight=1.0),),
        satisfaction_dim=0,
    )


def planned(tables: FeatureSchema, cluster: Cluster, offer: Offer = ANY) -> Plan | NoPlan:
    return find_plan(tables, cluster, WORK, offer, timeout=60)


@pytest.mark.parametrize("size", [20 * GB, 1_000 * GB])
def test_a_preset_has_the_requested_size(size: int) -> None:
    tables = tables_of(schema_of(size))
    assert sum(table.rows * (4 * table.dim + 4) for table in tables) == pytest.approx(size, rel=1e-3)
    with pytest.raises(ValueError, match="a preset of 1,000 bytes is not allowed: more than"):
        schema_of(1_000)


def test_a_plan_places_every_row_once_and_within_memory() -> None:
    tables = schema_of(40 * GB)
    cluster = Cluster(host=dataclasses.replace(HOSTS["h100"], hbm=8 * GB), hosts=1)
    plan = planned(tables, cluster)
    assert isinstance(plan, Plan)
    sizes = {table.name: table for table in tables_of(tables)}
    assert sorted(option.name for option in plan.options) == sorted(sizes)
    used = [0] * cluster.ranks
    for option in plan.options:
        table = sizes[option.name]
        assert sum(part.size[0] * part.size[1] for part in option.shards) == table.rows * table.dim
        # Storage is the weights, one moment for each row of each shard, and what a step reads and writes.
        weights = sum(4 * part.size[0] * (part.size[1] + 1) for part in option.shards)
        assert option.total_storage.hbm >= weights
        for part in option.shards:
            used[part.rank] += part.storage.hbm
    assert min(used) > 0 and max(used) <= cluster.hbm
    assert any(len(option.shards) > 1 for option in plan.options)


def test_tables_that_do_not_fit_are_named() -> None:
    found = planned(schema(videos=6_000_000), TWO)
    assert isinstance(found, NoPlan)
    assert found.left_over == ("cross",)
    assert found.needed.hbm > 6_000_000 * 516
    assert found.reason == "insufficient_storage"


def test_each_kind_of_change_gets_a_new_plan_nearest_first() -> None:
    """The tables take 3.1 GB; each of the two ranks has 0.85 GB of HBM and 3 GB of host memory."""
    tables = schema(videos=6_000_000)
    failure = planned(tables, TWO)
    assert isinstance(failure, NoPlan)
    tried = list(try_changes(tables, TWO, ANY, failure, lambda cluster, offer: planned(tables, cluster, offer)))
    assert [(one.change.name, isinstance(one.outcome, Plan)) for one in tried] == [
        ("column-wise splits down to 32 columns", False),
        ("UVM caching of the 1 largest tables with load factor 0.2", True),
        ("FP16 for the 1 largest tables", True),
        ("FP16 for the 1 largest tables and UVM caching of the 1 largest tables with load factor 0.2", True),
        ("2 hosts instead of 1", True),
    ]
    for one in tried:
        if isinstance(one.outcome, Plan):
            used = [0] * one.change.cluster.ranks
            for option in one.outcome.options:
                for part in option.shards:
                    used[part.rank] += part.storage.hbm
            assert max(used) <= one.change.cluster.hbm
    cached = next(one for one in tried if "UVM" in one.change.name)
    assert isinstance(cached.outcome, Plan)
    cross = next(option for option in cached.outcome.options if option.name == "cross")
    assert cross.compute_kernel == "fused_uvm_caching" and cross.total_storage.ddr >= 6_000_000 * 516


def test_a_split_is_the_nearest_change_if_none_was_offered(tmp_path: Path) -> None:
    tables = schema(videos=2_500_000)
    report, plan = what_if(tables, TWO, WORK, Offer(types=("table_wise",)), timeout=60)
    assert not report["fits"] and report["failure"]["left_over"] == ["cross"]
    assert report["nearest"].startswith("split by rows and columns too: offer column_wise")
    assert plan is not None and report["highest"]["hbm_gb"] <= TWO.hbm / GB
    # Training can read the plan file.
    write({"tables_from": "test", **report}, plan, tables, tmp_path)
    shape, source = ClusterShape(device="cuda", ranks=2, ranks_per_host=2), "plan.json"
    found = read_plan(tmp_path / source, source=source)
    read = sharding_plan(found, on_paper(tables), tables, shape, source=source)
    assert {name for part in read.plan.values() for name in part} == {"user", "video", "cross"}
    assert json.loads((tmp_path / "whatif.json").read_text())["nearest"] == report["nearest"]
    for name in ("tables.png", "ranks.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_half_precision_halves_the_weights() -> None:
    whole, half = (planned(schema(videos=500_000), TWO, Offer(half=frozenset(names))) for names in ((), ("cross",)))
    assert isinstance(whole, Plan) and isinstance(half, Plan)
    (one,), (other,) = ([o for o in plan.options if o.name == "cross"] for plan in (whole, half))
    assert other.tensor.dtype == torch.float16
    assert one.total_storage.hbm - other.total_storage.hbm == 500_000 * 128 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "--preset huge is not allowed: 1TB, 5TB, 20TB, 100TB, or a number of TB"),
        (["--preset", "5TB", "--types", "rows"], "--types rows is not allowed: of table_wise, column_wise"),
        (["--preset", "5TB", "--hosts", "0"], "--hosts 0 is not allowed: at least 1"),
        (["--recipe", "nope"], "--recipe nope is unknown: one of quickstart"),
        (["--schema", "none.toml"], "--schema none.toml: cannot be read"),
    ],
)
def test_invalid_arguments_give_a_one_line_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["what-if", *arguments]) == 2
    assert message in capsys.readouterr().err
