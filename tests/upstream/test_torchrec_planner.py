"""The planner of TorchRec still gets ranks from its partitioner, and still stores the best options.

`tests/training/sharding/test_constraints.py` tests pinned tables in whole plans.
"""

from __future__ import annotations

import pytest
import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import EmbeddingModuleShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from easq_rec.upstream.torchrec_planner import PinningPartitioner, best_options, proposals

CHANGED = "TorchRec has changed {}: adapt easq_rec/upstream/torchrec_planner.py"


NAMES = ("one", "two", "three")


def pinning_planner(room: int) -> EmbeddingShardingPlanner:
    return EmbeddingShardingPlanner(
        topology=Topology(world_size=3, compute_device="cpu", ddr_cap=room),
        partitioner=PinningPartitioner({"one": (2,), "two": (2,)}),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
    )


def planned(planner: EmbeddingShardingPlanner) -> EmbeddingModuleShardingPlan:
    """The plan of three equal tables."""
    tables = [
        EmbeddingBagConfig(name=name, embedding_dim=16, num_embeddings=100_000, feature_names=[name]) for name in NAMES
    ]
    module = torch.nn.Sequential(EmbeddingBagCollection(tables=tables, device=torch.device("meta")))
    return planner.plan(module, [EmbeddingBagCollectionSharder()]).plan["0"]


def test_pinned_tables_fill_the_memory_of_their_rank() -> None:
    planner = pinning_planner(2**30)
    planned(planner)
    table = best_options(planner)[0].total_storage.ddr
    planned(pinning_planner(3 * table))
    try:
        planned(pinning_planner(3 * table // 2))
    except PlannerError:
        return
    pytest.fail(CHANGED.format("how Storage is subtracted"))


def test_the_planner_uses_pins_and_stores_the_best_options() -> None:
    planner = pinning_planner(2**30)
    plan = planned(planner)
    assert plan["one"].ranks == plan["two"].ranks == [2], CHANGED.format("how a planner calls its partitioner")
    assert plan["three"].ranks != [2], CHANGED.format("how GreedyPerfPartitioner balances around filled ranks")
    found = {option.name: [part.rank for part in option.shards] for option in best_options(planner)}
    assert found == {name: plan[name].ranks for name in NAMES}, CHANGED.format("_best_plan of the planner")
    assert proposals(planner) >= 1, CHANGED.format("_num_proposals of the planner")
