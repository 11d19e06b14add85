"""Hands the plan of each step from rank 0 to all ranks."""

from __future__ import annotations

import datetime

import torch.distributed as dist

from easq_rec.data.stream.planner import Plan
from easq_rec.training.process import GRACE_S, Runtime, shared_text


class Broadcast:
    """`easq_rec.data.stream.loader.PlanExchange` between processes.

    It has a group of its own: a thread that prepares batches calls it while a training step has its own exchanges.
    """

    def __init__(self, runtime: Runtime, timeout_s: int) -> None:
        self._world_size = runtime.world_size
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s + GRACE_S))

    def __call__(self, plan: Plan | None) -> Plan:
        if self._world_size == 1:
            assert plan is not None
            return plan
        text = shared_text(plan.to_text() if plan is not None else None, self._group)
        return Plan.of_text(text) if plan is None else plan
