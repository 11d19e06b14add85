"""Shows the ids of every rank's requests to all ranks, which then give the same rows to them."""

from __future__ import annotations

import datetime

import torch
import torch.distributed as dist

from easq_rec.data.columns import Rows
from easq_rec.training.process import GRACE_S, Runtime


class IdGather:
    """`easq_rec.data.row_assignment.GatherNumbers` between processes.

    It has a group of its own: a thread that prepares batches calls it while a training step has its own exchanges.
    """

    def __init__(self, runtime: Runtime, timeout_s: int) -> None:
        self._ranks = runtime.world_size
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s + GRACE_S))

    def __call__(self, numbers: Rows) -> list[Rows]:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._ranks)]
        dist.all_gather(sizes, torch.tensor([len(numbers)]), group=self._group)
        longest = max(int(size) for size in sizes)
        # The ranks send equally many numbers.
        mine = torch.zeros(longest, dtype=torch.int64)
        mine[: len(numbers)] = torch.from_numpy(numbers)
        parts = [torch.empty(longest, dtype=torch.int64) for _ in range(self._ranks)]
        dist.all_gather(parts, mine, group=self._group)
        return [part[: int(size)].numpy() for part, size in zip(parts, sizes, strict=True)]
