"""Row-wise Adagrad's moments under another split of the columns.

It keeps one moment per row and shard, the sum of the mean squared gradients of the shard's columns. A table that was
split between columns therefore has as many moments per row as it had parts, and another split needs others: each
part's moment is the mean of the old ones, weighed by the columns that they share. That is exact where parts are joined,
but for what other moments would have made of the gradients meanwhile, and the nearest guess where one is split.

Legend: V rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

Columns = list[tuple[int, int]]
"""First column and number of columns of each part, from left to right."""
MOMENT = ".momentum1"


def resplit(moments: Tensor, before: Columns, after: Columns) -> Tensor:
    """Moments of the parts `before`, (parts * V,), one part after the other, as those of the parts `after`."""
    old = moments.view(len(before), -1)
    shared = torch.tensor(
        [[_overlap(part, other) for other in before] for part in after], dtype=moments.dtype, device=moments.device
    )
    return (shared / shared.sum(dim=1, keepdim=True) @ old).reshape(-1)


def _overlap(one: tuple[int, int], two: tuple[int, int]) -> int:
    return max(min(one[0] + one[1], two[0] + two[1]) - max(one[0], two[0]), 0)


class Resplit:
    """The moments in a state whose shape is another in the checkpoint, which are read as whole tensors.

    Args:
        state: `model` and `optimizer` as they will be loaded. Those moments are replaced by what reads them.

    Raises:
        ValueError: a table is split in a way that moments cannot be translated from or to.
    """

    def __init__(self, state: dict[str, Any], metadata: Metadata) -> None:
        self._optimizer: dict[str, Any] = state["optimizer"]["state"]
        self._parts: dict[tuple[str, str], tuple[ShardedTensor, Tensor, Columns, Columns]] = {}
        for parameter, values in self._optimizer.items():
            for key, moment in list(values.items()):
                if not (key.endswith(MOMENT) and isinstance(moment, ShardedTensor)):
                    continue
                stored = metadata.state_dict_metadata.get(f"optimizer.state.{parameter}.{key}")
                if not isinstance(stored, TensorStorageMetadata) or stored.size == moment.size():
                    continue
                table = parameter.removeprefix("tables.")
                weight = metadata.state_dict_metadata.get(f"model.{table}")
                assert isinstance(weight, TensorStorageMetadata)
                chunks = [(list(chunk.offsets), list(chunk.sizes)) for chunk in weight.chunks]
                shards = [
                    (part.shard_offsets, part.shard_sizes) for part in state["model"][table].metadata().shards_metadata
                ]
                before, after = (columns_of(table, parts, weight.size[0]) for parts in (chunks, shards))
                whole = torch.empty(stored.size, dtype=stored.properties.dtype)
                self._parts[parameter, key] = (moment, whole, before, after)
                values[key] = whole

    @property
    def tables(self) -> list[str]:
        """Names of the tables whose moments are translated."""
        return sorted(key.removesuffix(MOMENT) for _, key in self._parts)

    def finish(self) -> None:
        """Once the checkpoint is loaded: fills the moments, and puts them back into the state."""
        for (parameter, key), (moment, whole, before, after) in self._parts.items():
            values = resplit(whole, before, after)
            for local in moment.local_shards():
                first = local.metadata.shard_offsets[0]
                local.tensor.copy_(values[first : first + len(local.tensor)].view_as(local.tensor))
            self._optimizer[parameter][key] = moment


def columns_of(table: str, parts: Sequence[tuple[Sequence[int], Sequence[int]]], rows: int) -> Columns:
    """The column ranges between which a table is split. Parts of some rows with all columns are not split at all: their
    moments are numbered by the rows of the table."""
    columns = {(offsets[1], sizes[1]) for offsets, sizes in parts}
    if len(columns) > 1 and any(offsets[0] != 0 or sizes[0] != rows for offsets, sizes in parts):
        raise ValueError(
            f"{table}: it is split between rows as well as columns, there or here, and the order of its Adagrad "
            "moments is then not known; resume under the sharding that the checkpoint was written with"
        )
    return sorted(columns)
