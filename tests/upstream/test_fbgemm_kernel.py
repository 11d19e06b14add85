"""FBGEMM's kernel still has the attributes that pooled views use. `test_host_lookup.py` compares whole lookups."""

from __future__ import annotations

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.upstream.fbgemm_kernel import MOMENT, pooled_view, tables_of_features

CHANGED = "FBGEMM has changed {}: adapt easq_rec/upstream/fbgemm_kernel.py"


@pytest.fixture
def kernel() -> SplitTableBatchedEmbeddingBagsCodegen:
    made = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, 4, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in (6, 9)],
        feature_table_map=[0, 1, 1],
        pooling_mode=PoolingMode.NONE,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.5,
        eps=1e-8,
    )
    for weight in made.split_embedding_weights():
        weight.copy_(torch.arange(weight.numel()).view_as(weight))
    return made


def test_features_are_mapped_to_their_tables(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    assert list(tables_of_features(kernel)) == [0, 1, 1], CHANGED.format("feature_table_map")


def test_a_view_sums_rows_of_its_table(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    table = kernel.split_embedding_weights()[1].clone()
    found = pooled_view(kernel, [1])(torch.tensor([8, 2, 5]), torch.tensor([0, 2, 3]))
    assert torch.equal(found, torch.stack([table[8] + table[2], table[5]])), CHANGED.format("its lookup of bags")


def test_a_view_updates_weights_and_moments_of_the_kernel(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    before = [weight.clone() for weight in kernel.split_embedding_weights()]
    kernel.set_learning_rate(0.25)
    pooled_view(kernel, [1])(torch.tensor([3]), torch.tensor([0, 1])).sum().backward()
    first, second = kernel.split_embedding_weights()
    assert torch.equal(first, before[0]), CHANGED.format("weights_offsets")
    # The gradient is 1 in every column, so Adagrad's step is the learning rate.
    expected = before[1].clone()
    expected[3] -= 0.25
    assert torch.allclose(second, expected), CHANGED.format("the weights or the learning rate that views share")
    moments = [state[0] for state in kernel.split_optimizer_states()]
    assert not moments[0].any() and moments[1].flatten().tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0], CHANGED.format(
        "momentum1_offsets or the moments that views share"
    )


def test_a_view_does_not_change_the_kernel(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2, 3])
    before = kernel(ids, offsets).detach().clone()
    pooled_view(kernel, [0])
    assert torch.equal(kernel(ids, offsets), before), CHANGED.format("what a shallow copy of the kernel shares")


def test_moments_have_the_expected_name_in_the_state_of_the_fused_optimizer(sharded: DistributedModelParallel) -> None:
    names = [name for values in sharded.fused_optimizer.state_dict()["state"].values() for name in values]
    assert sorted(name for name in names if name.endswith(MOMENT)) == [f"bag{MOMENT}", f"sequence{MOMENT}"], (
        CHANGED.format("the names of row-wise Adagrad's moments")
    )
