"""Equal numbers of bags on all ranks, for sharding types whose reduce-scatter requires them.

Ranks have different numbers of requests and candidates. Empty bags after the last one make the numbers equal, and their
rows (zeros) are removed before the network reads them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from easq_rec.data.batch import RequestBatch
from easq_rec.model.embeddings import RequestEmbeddings
from easq_rec.training.process import Runtime


class CutEmbeddings(RequestEmbeddings):
    """RequestEmbeddings for padded batches."""

    def forward(self, batch: RequestBatch) -> tuple[Any, Any, Any]:
        user, sequence, candidate = super().forward(batch)
        requests = len(batch.candidate_offsets_R1) - 1
        return _cut(user, requests), sequence, _cut(candidate, len(batch.float_NF)) if candidate is not None else None


def padded(batch: RequestBatch, runtime: Runtime) -> RequestBatch:
    """Pads each feature to the maximum number of bags of all ranks."""
    candidate = batch.candidate
    return dataclasses.replace(
        batch,
        user=_pad(batch.user, runtime.agree(batch.user.stride())[0]),
        candidate=None if candidate is None else _pad(candidate, runtime.agree(candidate.stride())[0]),
    )


def _pad(ids: KeyedJaggedTensor, stride: int) -> KeyedJaggedTensor:
    keys = ids.keys()
    lengths = ids.lengths().view(len(keys), ids.stride())
    more = torch.nn.functional.pad(lengths, (0, stride - ids.stride()))
    return KeyedJaggedTensor(keys=keys, values=ids.values(), lengths=more.flatten())


def _cut(pooled: Any, count: int) -> KeyedTensor:
    # A sharded collection returns an awaitable, which becomes a KeyedTensor on first use.
    return KeyedTensor(keys=pooled.keys(), length_per_key=pooled.length_per_key(), values=pooled.values()[:count])
