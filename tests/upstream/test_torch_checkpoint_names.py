"""The names of the files of torch.distributed.checkpoint still contain the rank that wrote them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

from easq_rec.upstream.torch_checkpoint_names import METADATA, rank_of_shard

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_checkpoint_names.py"


def test_a_checkpoint_is_metadata_and_shards_of_rank_0(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"weight": torch.ones(2), "bias": torch.zeros(3)}, checkpoint_id=tmp_path, no_dist=True)
    names = {file.name for file in tmp_path.iterdir()}
    assert METADATA in names, CHANGED.format("the name of the metadata of a checkpoint")
    shards = names - {METADATA}
    assert shards and {rank_of_shard(name) for name in shards} == {0}, CHANGED.format("the names of shards")
    stored = FileSystemReader(tmp_path).read_metadata().storage_data
    assert {place.relative_path for place in stored.values()} <= shards, CHANGED.format("the names of shards")


def test_the_rank_is_the_first_number_in_the_name_of_a_shard() -> None:
    """The prefix of the files of rank 11 is taken from the plan that torch makes for it."""
    from torch.distributed.checkpoint import FileSystemWriter, SavePlan

    plans = FileSystemWriter("unused").prepare_global_plan([SavePlan([]) for _ in range(12)])
    prefix = plans[11].storage_data.prefix
    assert rank_of_shard(f"{prefix}0.distcp") == 11, CHANGED.format("the names of shards")
    assert rank_of_shard("rng_11.npy") is None and rank_of_shard(METADATA) is None
