"""Translates the moments of row-wise Adagrad to another split of the columns of a table.

Row-wise Adagrad keeps one moment per row and shard: the sum over steps of the mean squared gradient of the shard's
columns. A table whose columns are split between k shards therefore has k moments per row. Under another split, the
moment of a new shard is the mean of the old shards' moments, weighted by the number of shared columns. If shards are
joined, this is the moment that the same gradients would have given. If a shard is split, it is the best estimate.

Legend: V rows of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from easq_rec.errors import UserError
from easq_rec.upstream.fbgemm_kernel import MOMENT
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor

Columns = list[tuple[int, int]]
"""First column and number of columns of each shard, from left to right."""


def resplit(moments: Tensor, before: Columns, after: Columns) -> Tensor:
    """Moments under another split of the columns.

    Args:
        moments: (number of `before` * V,), those of one shard after those of another.

    Returns:
        (number of `after` * V,), in the same order.
    """
    old = moments.view(len(before), -1)
    shared = torch.tensor(
        [[_overlap(part, other) for other in before] for part in after], dtype=moments.dtype, device=moments.device
    )
    return (shared / shared.sum(dim=1, keepdim=True) @ old).reshape(-1)


def _overlap(one: tuple[int, int], two: tuple[int, int]) -> int:
    return max(min(one[0] + one[1], two[0] + two[1]) - max(one[0], two[0]), 0)


class MomentReshard:
    """Translates the moments whose shape differs between a checkpoint and the state that it is loaded into.

    The constructor replaces these moments in the state by whole tensors of the checkpoint's shape. The caller loads the
    checkpoint into the state, and then calls `finish`.

    Args:
        state: `model` and `optimizer`, into which the checkpoint will be loaded.

    Raises:
        UserError: the rows as well as the columns of such a table are split.
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
        """Fills the moments from the loaded tensors and puts them back into the state."""
        for (parameter, key), (moment, whole, before, after) in self._parts.items():
            values = resplit(whole, before, after)
            for local in moment.local_shards():
                first = local.metadata.shard_offsets[0]
                local.tensor.copy_(values[first : first + len(local.tensor)].view_as(local.tensor))
            self._optimizer[parameter][key] = moment


def columns_of(table: str, parts: Sequence[tuple[Sequence[int], Sequence[int]]], rows: int) -> Columns:
    """The column ranges between which a table is split.

    A table whose rows are split has one range: its moments are numbered by the rows of the table.

    Args:
        parts: (offsets, sizes) of each shard.
    """
    columns = {(offsets[1], sizes[1]) for offsets, sizes in parts}
    if len(columns) > 1 and any(offsets[0] != 0 or sizes[0] != rows for offsets, sizes in parts):
        raise UserError(
            f"{table}: its rows as well as its columns are split, in the checkpoint or in this run, and the order of "
            "its Adagrad moments is then not known; resume under the sharding that the checkpoint was written with"
        )
    return sorted(columns)
