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


def pooled_view(kernel: SplitTableBatchedEmbeddingBagsCodegen, feature: int) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The table of one feature as a kernel that sums bags.

    A shallow copy: it shares weights, optimizer state and learning rate with the kernel.
    """
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
