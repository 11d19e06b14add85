"""The sharded collections of TorchRec still contain the kernels whose lookup is replaced on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.upstream.torchrec_lookups import unpooled_cpu_kernels
from tests.upstream.conftest import ids

CHANGED = "TorchRec has changed {}: adapt easq_rec/upstream/torchrec_lookups.py"


def test_a_lookup_calls_the_replaced_forward(sharded: DistributedModelParallel) -> None:
    kernels = unpooled_cpu_kernels(sharded)
    assert len(kernels) == 1, CHANGED.format("where a ShardedEmbeddingCollection keeps its lookups")
    (kernel,) = kernels
    assert [tuple(weight.shape) for weight in kernel.split_embedding_weights()] == [(30, 8)], CHANGED.format(
        "the kernel of a lookup"
    )
    batch, forward = ids(0), kernel.forward
    calls: list[tuple[Tensor, Tensor]] = []

    def replaced(indices: Tensor, offsets: Tensor, *args: object, **named: object) -> Tensor:
        calls.append((indices, offsets))
        return forward(indices, offsets, *args, **named)

    kernel.forward = replaced
    sharded(batch)
    assert len(calls) == 1, CHANGED.format("how a lookup calls its kernel")
    indices, offsets = calls[0]
    assert torch.equal(indices, batch.sequences.values()), CHANGED.format("what a lookup passes to its kernel")
    assert offsets.tolist() == [0, 1, 3, 3, 6], CHANGED.format("what a lookup passes to its kernel")
