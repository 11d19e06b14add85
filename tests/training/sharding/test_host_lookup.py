"""The pooled view of an unpooled CPU kernel has the same values, updates and state as the kernel."""

from __future__ import annotations

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from easq_rec.training.sharding.host_lookup import pooled_lookup

ROWS = (50, 30)


def kernel() -> SplitTableBatchedEmbeddingBagsCodegen:
    """Two tables, the first read by two features and the second by one."""
    made = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, 8, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        feature_table_map=[0, 0, 1],
        pooling_mode=PoolingMode.NONE,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
        eps=1e-8,
    )
    generator = torch.Generator().manual_seed(0)
    for weight in made.split_embedding_weights():
        weight.normal_(generator=generator)
    return made


@pytest.mark.parametrize("lengths", [[2, 0, 3, 1, 4, 2], [0, 0, 0, 0, 2, 1], [3, 1, 0, 2, 0, 0], [0] * 6])
def test_pooled_lookup_equals_unpooled(lengths: list[int]) -> None:
    """Weights and momenta stay equal with repeated ids, absent features and tables, and a changing learning rate."""
    slow, fast = kernel(), kernel()
    lookup = pooled_lookup(fast)
    generator = torch.Generator().manual_seed(1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    first, total = int(offsets[4]), int(offsets[-1])
    for step in range(4):
        # There are few distinct ids, so that most occur several times. The exact update first adds up their gradients.
        ids = torch.cat(
            [
                torch.randint(0, 3, (first,), generator=generator),
                torch.randint(27, 30, (total - first,), generator=generator),
            ]
        )
        for module in (slow, fast):
            module.set_learning_rate(0.1 * (step + 1))
        expected, found = slow(ids, offsets), lookup(ids, offsets)
        torch.testing.assert_close(found, expected)
        grad = torch.randn(expected.shape, generator=generator)
        expected.backward(grad)
        found.backward(grad)
        for a, b in zip(slow.split_embedding_weights(), fast.split_embedding_weights(), strict=True):
            torch.testing.assert_close(b, a)
        for (a,), (b,) in zip(slow.split_optimizer_states(), fast.split_optimizer_states(), strict=True):
            torch.testing.assert_close(b, a)
    assert bool(fast.split_optimizer_states()[0][0].any()) == bool(first), "the update did not reach the shared state"
