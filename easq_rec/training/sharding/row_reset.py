"""Resets rows of sharded tables, so that an id which gets the row of another one does not inherit what was learned for
that one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config.schema import SATISFACTION
from easq_rec.data.id_map import IdChanges
from easq_rec.upstream.fbgemm_kernel import MOMENT
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor


@dataclass(frozen=True, kw_only=True)
class LocalRows:
    """Weights or moments of some rows of a table, on this rank."""

    first: int
    """Row of the table that comes first."""
    values: Tensor
    """(rows, columns) weights, or (rows,) moments: the memory that the kernels train."""


class RowReset:
    """Sets weights and Adagrad moments of rows to 0, on the ranks that hold them.

    Args:
        tables: admitted tables. A table of the satisfaction tower has the rows of the main tower's table.
        moments: state of the tables' optimizer, by parameter.
    """

    def __init__(self, model: DistributedModelParallel, moments: dict[str, Any], tables: Iterable[str]) -> None:
        self._parts: dict[str, list[LocalRows]] = {table: [] for table in tables}
        if not self._parts:
            return
        for name, value in model.state_dict().items():
            parts = self._parts.get(_table_of(name, self._parts))
            if parts is None or not isinstance(value, ShardedTensor):
                continue
            shards = value.local_shards()
            if not shards:
                # This rank holds no part of the table, and has no moments of it.
                continue
            parts += [LocalRows(first=one.metadata.shard_offsets[0], values=one.tensor) for one in shards]
            for key, moment in moments[f"tables.{name}"].items():
                if key.endswith(MOMENT):
                    # Shards of the moments are in the order of those of the weights.
                    parts += [
                        LocalRows(first=one.metadata.shard_offsets[0], values=part.tensor)
                        for one, part in zip(shards, moment.local_shards(), strict=True)
                    ]

    @torch.no_grad()
    def __call__(self, changes: Iterable[IdChanges]) -> None:
        for change in changes:
            if not len(change.reset):
                continue
            for part in self._parts[change.table]:
                row = torch.from_numpy(change.reset - part.first)
                row = row[(row >= 0) & (row < len(part.values))]
                part.values[row.to(part.values.device, non_blocking=True)] = 0


def _table_of(parameter: str, tables: Collection[str]) -> str:
    """The table of the main tower that has the rows of a weight, `...embedding_bags.TABLE.weight`."""
    name = parameter.removesuffix(".weight").rpartition(".")[2]
    return name if name in tables else name.removeprefix(SATISFACTION)
