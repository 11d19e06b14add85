"""Hands the plan of each step from rank 0 to all ranks."""

from __future__ import annotations

import datetime
from typing import Any

import torch.distributed as dist

from easq_rec.data.stream.planner import Plan
from easq_rec.training.process import GRACE_S, Runtime


class Broadcast:
    """`easq_rec.data.stream.loader.PlanExchange` between processes. Plans are pickled, and come from this job.

    It has a group of its own: a thread that prepares batches calls it while a training step has its own exchanges.
    """

    def __init__(self, runtime: Runtime, timeout_s: int) -> None:
        self._world_size = runtime.world_size
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s + GRACE_S))

    def __call__(self, plan: Plan | None) -> Plan:
        if self._world_size == 1:
            assert plan is not None
            return plan
        values: list[Any] = [plan]
        dist.broadcast_object_list(values, src=0, group=self._group)
        received = values[0]
        assert isinstance(received, Plan)
        return received
