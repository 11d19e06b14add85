"""The FBGEMM kernels inside TorchRec's sharded EmbeddingCollections."""

from __future__ import annotations

from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection


def unpooled_cpu_kernels(model: nn.Module) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """The kernels of all unpooled lookups of a sharded model that run on the CPU.

    A lookup calls `kernel.forward(indices, offsets, ...)`, so that setting `forward` on a kernel replaces its lookup.
    """
    # TorchRec keeps the lookups in a plain list, so they are not submodules.
    sharded = [module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection)]
    lookups = [part for module in sharded for lookup in module._lookups for part in lookup.modules()]
    kernels = [part.emb_module for part in lookups if isinstance(part, BatchedFusedEmbedding)]
    return [kernel for kernel in kernels if kernel.use_cpu]
