"""Sharded tables are still ShardedTensors, and their shards still have offsets."""

from __future__ import annotations

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.upstream.torch_sharded_tensor import ShardedTensor

CHANGED = "torch or TorchRec has changed {}: adapt easq_rec/upstream/torch_sharded_tensor.py"


def test_a_table_in_a_state_dict_is_a_sharded_tensor(sharded: DistributedModelParallel) -> None:
    tables = {name: value for name, value in sharded.state_dict().items() if isinstance(value, ShardedTensor)}
    assert {name.split(".")[-2]: tuple(value.size()) for name, value in tables.items()} == {
        "bag": (20, 8),
        "sequence": (30, 8),
    }, CHANGED.format("the type of tables in a state dict")
    for value in tables.values():
        assert [shard.shard_sizes for shard in value.metadata().shards_metadata] == [list(value.size())], (
            CHANGED.format("ShardedTensor.metadata")
        )
        (local,) = value.local_shards()
        assert local.metadata.shard_offsets == [0, 0], CHANGED.format("ShardedTensor.local_shards")
        assert local.tensor.shape == value.size() and isinstance(local.tensor, torch.Tensor), CHANGED.format(
            "ShardedTensor.local_shards"
        )
