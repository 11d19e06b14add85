"""The module that DistributedModelParallel wraps: the ranker with its losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.objective import Objective, StepOutput
from easq_rec.losses.pairs import Comparison
from easq_rec.losses.ranks import OneRank, Ranks
from easq_rec.model.ranker import Ranker


class TrainingModel(nn.Module):
    """Ranker and objective: RequestBatch to (loss, StepOutput), as TrainPipelineSparseDist expects it."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks | None = None) -> None:
        super().__init__()
        ranks = ranks or OneRank()
        self.comparison = Comparison([outcome.weight for outcome in config.schema.outcomes], ranks)
        self.ranker = Ranker(config, device, autocast=torch.bfloat16 if config.trainer.precision == "bf16" else None)
        self.objective = Objective(
            config.losses,
            slots=config.replay.answers_per_step,
            activity={
                name: tower.activity for name, tower in config.model.towers.items() if tower.activity is not None
            },
            ranks=ranks,
        )

    def forward(self, batch: RequestBatch, steered: bool = True) -> tuple[Tensor, StepOutput]:
        # While the network runs, the ranks count their pairs.
        pairs = self.comparison(batch)
        output = self.objective(self.ranker(batch), batch, pairs, steered=steered)
        return output.loss, output
