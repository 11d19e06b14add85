"""FBGEMM's CPU kernel of an unpooled lookup, seen as pooled kernels of its tables."""

from __future__ import annotations

import copy

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen

MOMENT = ".momentum1"
"""End of the names of row-wise Adagrad's moments in the state of TorchRec's fused optimizer."""


def tables_of_features(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> list[int]:
    """The table of each feature, as an index into the kernel's tables."""
    tables: list[int] = kernel.feature_table_map
    return tables


def pooled_view(
    kernel: SplitTableBatchedEmbeddingBagsCodegen, features: list[int]
) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The tables of some features, which have one width, as a kernel that sums bags: (bags, tables * width).

    A shallow copy: it shares weights, optimizer state and learning rate with the kernel.
    """
    view = copy.copy(kernel)
    view._buffers = dict(kernel._buffers)
    view._modules = dict(kernel._modules)
    count, dim = len(features), int(kernel.D_offsets[features[0] + 1] - kernel.D_offsets[features[0]])
    rows = [0, *(int(kernel.rows_per_table[feature]) for feature in features)]
    view.pooling_mode, view.is_nobag, view.mixed_D = PoolingMode.SUM, False, False
    view.feature_table_map = list(range(count))
    view.total_D, view.max_D = count * dim, dim
    view.D_offsets = torch.arange(count + 1, dtype=kernel.D_offsets.dtype) * dim
    view.hash_size_cumsum = torch.tensor(rows, dtype=kernel.hash_size_cumsum.dtype).cumsum(0)
    view.rows_per_table = kernel.rows_per_table[features]
    view.feature_dims = torch.full((count,), dim)
    for name in ("weights_offsets", "weights_placements", "momentum1_offsets", "momentum1_placements"):
        setattr(view, name, getattr(kernel, name)[features])
    return view
