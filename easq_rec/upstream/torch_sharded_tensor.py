"""ShardedTensor: the type of a sharded table, and of its optimizer state, in TorchRec's state dicts."""

from __future__ import annotations

from torch.distributed._shard.sharded_tensor import ShardedTensor

__all__ = ["ShardedTensor"]
