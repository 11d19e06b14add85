"""A faster CPU kernel for sharded EmbeddingCollections.

FBGEMM's CPU backward for unpooled lookups takes several times as long per row as the pooled one
(`benchmarks/kernels.py` measures both). A bag of one id is the same lookup with the same row-wise Adagrad update, so on
CPU every table is read through the pooled kernel with bags of length one. The pooled view is a shallow copy of FBGEMM's
module that shares weights, optimizer state and learning rate. State dicts do not change.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn

from easq_rec.upstream.fbgemm_kernel import pooled_view, tables_of_features
from easq_rec.upstream.torchrec_lookups import unpooled_cpu_kernels


def use_pooled_kernels(model: nn.Module) -> int:
    """Replaces all unpooled CPU lookups of a sharded model; returns their number."""
    kernels = unpooled_cpu_kernels(model)
    for kernel in kernels:
        kernel.forward = pooled_lookup(kernel)
    return len(kernels)


def pooled_lookup(kernel: SplitTableBatchedEmbeddingBagsCodegen) -> Callable[..., Tensor]:
    """A forward function that is equal to that of the kernel: (indices, offsets) to (number of indices, D)."""
    unpooled = kernel.forward
    features = tables_of_features(kernel)
    # The features of a table, and therefore their indices, are contiguous: a table needs one lookup at most.
    tables = sorted(set(features))
    first_features = [features.index(table) for table in tables]
    views = [pooled_view(kernel, [feature]) for feature in first_features]
    together = pooled_view(kernel, first_features)
    next_feature = torch.tensor([len(features) - features[::-1].index(table) for table in tables])

    def forward(indices: Tensor, offsets: Tensor, *args: object, **kwargs: object) -> Tensor:
        if not indices.numel():
            # There is nothing to look up, but the output must take part in the collectives of the backward pass.
            return unpooled(indices, offsets, *args, **kwargs)
        bags = (offsets.numel() - 1) // len(features)
        ends = offsets[next_feature * bags].tolist()
        lengths = {end - begin for begin, end in zip([0, *ends], ends, strict=False)}
        if len(lengths) == 1:
            # Usual: each entry has one id for each table. Then one lookup with one bag per entry is enough.
            (entries,) = lengths
            pooled = together(indices, torch.arange(len(indices) + 1, dtype=indices.dtype))
            side_by_side = pooled.view(entries, len(tables), -1)
            return side_by_side.transpose(0, 1).flatten(0, 1)
        parts, begin = [], 0
        for view, end in zip(views, ends, strict=True):
            if end > begin:
                ones = torch.arange(end - begin + 1, dtype=indices.dtype)
                parts.append(view(indices[begin:end], ones))
            begin = end
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return forward
