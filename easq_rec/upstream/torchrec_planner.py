"""TorchRec's planner: a partitioner with pinned tables, and what a search for a plan found."""

from __future__ import annotations

import copy
import itertools

from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType, ShardingOption, Topology


def best_options(planner: EmbeddingShardingPlanner) -> list[ShardingOption]:
    """The options of the plan that the planner has made."""
    options: list[ShardingOption] = planner._best_plan
    return options


def proposals(planner: EmbeddingShardingPlanner) -> int:
    """Number of plans that the planner considered."""
    return int(planner._num_proposals)


class PinningPartitioner(GreedyPerfPartitioner):
    """TorchRec's partitioner with pinned tables. It balances the other tables around them.

    Args:
        pins: ranks by table. The shards of a table are assigned to its ranks in turn.
    """

    def __init__(self, pins: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._pins = pins

    def partition(
        self, proposal: list[ShardingOption], storage_constraint: Topology, hbm_per_device: int | None = None
    ) -> list[ShardingOption]:
        topology = copy.deepcopy(storage_constraint)
        devices = {device.rank: device for device in topology.devices}
        for option in proposal:
            ranks = self._pins.get(option.name)
            if ranks is None:
                continue
            for part, rank in zip(option.shards, itertools.cycle(ranks), strict=False):
                if not part.storage.fits_in(devices[rank].storage):
                    raise PlannerError(
                        error_type=PlannerErrorType.PARTITION,
                        message=f"Table {option.name} is pinned to rank {rank}, which has too little memory for it.",
                    )
                part.rank = rank
                devices[rank].storage -= part.storage
                devices[rank].perf += part.perf
        free = [option for option in proposal if option.name not in self._pins]
        if free:
            super().partition(free, topology, hbm_per_device)
        return proposal
