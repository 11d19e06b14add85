"""A faster CPU kernel for sharded EmbeddingCollections.

FBGEMM's CPU backward for unpooled lookups takes several times as long per row as the pooled one
(`benchmarks/kernels.py` measures both). A bag of one id is the same lookup with the same row-wise Adagrad update, so on
CPU every table is read through the pooled kernel with bags of length one. The pooled view is a shallow copy of FBGEMM's
module that shares weights, optimizer state and learning rate. State dicts do not change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection


def use_pooled_kernels(model: nn.Module) -> int:
    """Replaces all unpooled CPU lookups of a sharded model; returns their number."""
    # TorchRec keeps the lookups in a plain list, so they are not submodules.
    sharded = [module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)]
    lookups = [part for module in sharded for lookup in module._lookups for part in lookup.modules()]
    kernels = [part.emb_module for part in lookups if isinstance(part, BatchedFusedEmbedding)]
    kernels = [kernel for kernel in kernels if kernel.use_cpu]
    for kernel in kernels:
        kernel.forward = pooled_lookup(kernel)
    return len(kernels)


def pooled_lookup(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> Callable[..., Tensor]:
    """A forward function that is equal to that of the kernel: (indices, offsets) to (number of indices, D)."""
    unpooled = kernel.forward
    features = kernel.feature_table_map
    # The features of a table, and therefore their indices, are contiguous: one lookup per table is enough.
    tables = sorted(set(features))
    views = [_single_table(kernel, features.index(table)) for table in tables]
    last_feature = [len(features) - features[::-1].index(table) for table in tables]

    def forward(indices: Tensor, offsets: Tensor, *args: object, **kwargs: object) -> Tensor:
        if not indices.numel():
            # There is nothing to look up, but the output must take part in the collectives of the backward pass.
            return unpooled(indices, offsets, *args, **kwargs)
        bags = (offsets.numel() - 1) // len(features)
        ends = offsets[torch.tensor(last_feature) * bags].tolist()
        parts, begin = [], 0
        for view, end in zip(views, ends, strict=True):
            if end > begin:
                ones = torch.arange(end - begin + 1, dtype=indices.dtype)
                parts.append(view(indices[begin:end], ones))
            begin = end
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return forward


def _single_table(kernel: SplitTableBatchedEmbeddingBagsCodegen, feature: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The table of one feature as a pooled kernel that shares weights, optimizer state and learning rate."""
    view = copy.copy(kernel)
    view._buffers = dict(kernel._buffers)
    view._modules = dict(kernel._modules)
    rows, dim = int(kernel.rows_per_table[feature]), int(kernel.D_offsets[feature + 1] - kernel.D_offsets[feature])
    view.pooling_mode, view.is_nobag, view.mixed_D = PoolingMode.SUM, False, False
    view.feature_table_map = [0]
    view.total_D = view.max_D = dim
    view.D_offsets = torch.tensor([0, dim], dtype=kernel.D_offsets.dtype)
    view.hash_size_cumsum = torch.tensor([0, rows], dtype=kernel.hash_size_cumsum.dtype)
    view.rows_per_table = kernel.rows_per_table[feature : feature + 1]
    view.feature_dims = torch.tensor([dim])
    for name in ("weights_offsets", "weights_placements", "momentum1_offsets", "momentum1_placements"):
        setattr(view, name, getattr(kernel, name)[feature : feature + 1])
    return view
