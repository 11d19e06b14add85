"""TorchRec's planner still asks its partitioner for ranks, and remembers what it found.

`tests/training/sharding/test_constraints.py` pins tables in whole plans.
"""

from __future__ import annotations

import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from easq_rec.upstream.torchrec_planner import PinningPartitioner, best_options, proposals

CHANGED = "TorchRec has changed {}: adapt easq_rec/upstream/torchrec_planner.py"


def test_pins_and_the_found_options() -> None:
    names = ("one", "two", "three")
    tables = [
        EmbeddingBagConfig(name=name, embedding_dim=16, num_embeddings=100, feature_names=[name]) for name in names
    ]
    module = torch.nn.Sequential(EmbeddingBagCollection(tables=tables, device=torch.device("meta")))
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=3, compute_device="cpu", ddr_cap=2**30),
        partitioner=PinningPartitioner({"one": (2,), "two": (2,)}),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
    )
    plan = planner.plan(module, [EmbeddingBagCollectionSharder()]).plan["0"]
    assert plan["one"].ranks == plan["two"].ranks == [2], CHANGED.format("how a planner calls its partitioner")
    assert plan["three"].ranks != [2], CHANGED.format("how GreedyPerfPartitioner balances around filled ranks")
    found = {option.name: [part.rank for part in option.shards] for option in best_options(planner)}
    assert found == {name: plan[name].ranks for name in names}, CHANGED.format("_best_plan of the planner")
    assert proposals(planner) >= 1, CHANGED.format("_num_proposals of the planner")
