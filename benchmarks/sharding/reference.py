"""The unsharded model in plain PyTorch, and the check that a sharded model trains like it.

It uses no distributed part of TorchRec, no FBGEMM kernels and no fused optimizer: only collections of `nn.Embedding`
and `nn.EmbeddingBag`, autograd's dense gradients, and an explicit row-wise Adagrad.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.training.routing import Routing
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor

EPS = 1e-2
"""AdamW's epsilon in a check: a gradient that is only rounding error must not become a step."""


class Unsharded:
    """Trains step by step on whole batches.

    Args:
        weights: initial values by name, as `whole_state` gathers them.
        plan: the optimizer follows its column splits, because row-wise Adagrad keeps one moment per row and shard.
    """

    def __init__(self, config: Config, weights: dict[str, Tensor], plan: ShardingPlan) -> None:
        self.model = TrainingModel(config, torch.device("cpu"))
        self.model.load_state_dict(weights)
        self._routing = Routing(self.model.ranker.network)
        self._lr = config.optim.table_lr
        self._splits = _column_splits(plan)
        parameters = dict(self.model.named_parameters())
        self._tables = {name: parameters[name] for name in parameters if _table(name) in self._splits}
        self._moments = {
            name: [torch.zeros(len(table)) for _ in self._splits[_table(name)]] for name, table in self._tables.items()
        }
        dense = [value for name, value in parameters.items() if name not in self._tables]
        self._adamw = torch.optim.AdamW(
            dense, lr=config.optim.dense_lr, weight_decay=config.optim.weight_decay, eps=EPS
        )

    def step(self, batch: RequestBatch) -> Tensor:
        """Trains on a batch; returns its loss."""
        self.model.zero_grad()
        loss, output = self.model(batch)
        loss.backward()
        self._adamw.step()
        self._adagrad()
        self._routing.update(self._routing.sums(output.network, batch), skip=torch.zeros(()))
        return loss.detach()

    @torch.no_grad()
    def _adagrad(self) -> None:
        for name, table in self._tables.items():
            assert table.grad is not None, name
            for moment, (begin, end) in zip(self._moments[name], self._splits[_table(name)], strict=True):
                gradient = table.grad[:, begin:end]
                moment += gradient.square().mean(dim=1)
                table[:, begin:end] -= self._lr * gradient / (moment.sqrt()[:, None] + 1e-8)


def whole_state(model: DistributedModelParallel) -> dict[str, Tensor]:
    """All dense parameters and all unsharded tables, on rank 0; nothing on the others, to save memory."""
    values = model.state_dict()
    tables = {name: value for name, value in values.items() if isinstance(value, ShardedTensor)}
    mine: dict[str, Any] = {
        name: (tuple(value.size()), [(part.metadata.shard_offsets, part.tensor.cpu()) for part in value.local_shards()])
        for name, value in tables.items()
    }
    everyone: list[dict[str, Any]] | None = [{} for _ in range(dist.get_world_size())] if not dist.get_rank() else None
    dist.gather_object(mine, everyone)
    if everyone is None:
        return {}
    found = {name: value.detach().cpu().clone() for name, value in values.items() if name not in tables}
    for name, (size, parts) in itertools.chain(*(rank.items() for rank in everyone)):
        table = found.setdefault(name, torch.full(size, float("nan")))
        for (row, column), part in parts:
            table[row : row + part.shape[0], column : column + part.shape[1]] = part
    return found


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest absolute difference of any value. Raises ValueError if names differ or a value is missing."""
    if found.keys() != expected.keys():
        raise ValueError(f"names differ: {sorted(found.keys() ^ expected.keys())}")
    differences = [float((found[name].float() - value.float()).abs().max()) for name, value in expected.items()]
    if any(difference != difference for difference in differences):
        raise ValueError("a table has values that no rank holds")
    return max(differences)


def movement(after: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
    """Change of all values by training, as one vector."""
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(before)])


def _column_splits(plan: ShardingPlan) -> dict[str, list[tuple[int, int]]]:
    """(first, after last) columns of every fused table's shards."""
    found = {}
    for module in plan.plan.values():
        for name, table in module.items():
            if table.sharding_spec is not None:
                spans = {
                    (p.shard_offsets[1], p.shard_offsets[1] + p.shard_sizes[1]) for p in table.sharding_spec.shards
                }
                found[name] = sorted(spans)
    return found


def _table(name: str) -> str:
    """The table of a weight: PATH.embedding_bags.TABLE.weight, or PATH.embeddings.TABLE.weight."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 2 and parts[-3] in ("embedding_bags", "embeddings") else ""
