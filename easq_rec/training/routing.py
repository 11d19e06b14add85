"""Updates the towers' routers after each step, by what all ranks have seen.

Legend: X sums of all routers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from easq_rec.data.batch import RequestBatch
from easq_rec.model.network import NetworkOutput, RankingNetwork
from easq_rec.model.router import Router
from easq_rec.model.towers import TowerOutput


class Routing:
    """The routers of a network that are updated without a gradient; see `easq_rec.model.router`."""

    def __init__(self, network: RankingNetwork) -> None:
        self._network = network
        towers = {"main": network.main, "satisfaction": network.satisfaction}
        self._routers = {
            name: tower.router
            for name, tower in towers.items()
            if tower is not None and isinstance(tower.router, Router)
        }

    def sums(self, output: NetworkOutput, batch: RequestBatch) -> Tensor:
        """The argument of `update` from one forward pass, before it is added up over the ranks: (X,), FP64, equally
        long on all ranks and in all steps. A tower that was not computed has zeros."""
        # A smoothed reference is computed by another tower, so only the answered candidates count.
        smoothed, candidates = self._network.smoothed is not None, batch.stream.candidates
        towers: dict[str, tuple[TowerOutput | None, int]] = {
            "main": (output.main, candidates),
            "satisfaction": (output.answered, len(batch.answer_A)) if smoothed else (output.reference, candidates),
        }
        parts = [output.main.score_N.new_zeros(0, dtype=torch.float64)]
        for name, router in self._routers.items():
            tower, rows = towers[name]
            if tower is None or tower.routed_ND is None:
                parts.append(parts[0].new_zeros(router.sums_length))
            else:
                parts.append(router.sums(tower.routed_ND[:rows], tower.gate_NK[:rows]))
        return torch.cat(parts)

    def update(self, sum_X: Tensor, skip: Tensor) -> None:
        """Updates the routers, except that of a tower which the step did not compute.

        Args:
            sum_X: `sums` over all ranks.
            skip: 1 to change nothing, else 0. It is read on the device.
        """
        parts = sum_X.split([router.sums_length for router in self._routers.values()])
        for router, part_X in zip(self._routers.values(), parts, strict=True):
            router.update(part_X, skip)
