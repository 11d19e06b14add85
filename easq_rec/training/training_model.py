"""The module that DistributedModelParallel wraps: the ranker with its losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.comparison import Comparison
from easq_rec.losses.objective import Objective, StepOutput
from easq_rec.losses.ranks import OneRank, Ranks
from easq_rec.losses.term import terms_of
from easq_rec.model.ranker import Ranker


class TrainingModel(nn.Module):
    """Ranker and objective: RequestBatch to (loss, StepOutput), as TrainPipelineSparseDist expects it."""

    def __init__(self, config: Config, device: torch.device, ranks: Ranks | None = None) -> None:
        super().__init__()
        ranks, terms = ranks or OneRank(), terms_of(config.losses)
        utility = [outcome.weight_in_training for outcome in config.schema.outcomes]
        self.comparison = Comparison(config.losses, terms, utility, ranks, trigger=config.schema.trigger_index)
        self.ranker = Ranker(config, device, autocast=torch.bfloat16 if config.trainer.precision == "bf16" else None)
        self.objective = Objective(
            config.losses,
            terms,
            slots=config.replay.answers_per_step,
            ranks=ranks,
        )

    def forward(self, batch: RequestBatch, steered: bool = True) -> tuple[Tensor, StepOutput]:
        """
        Args:
            steered: whether the losses by which the reference moves the policy take effect; False during the warm-up.
        """
        # The ranks count their pairs while the network runs.
        pairs = self.comparison(batch)
        output = self.objective(self.ranker(batch), batch, pairs, steered=steered)
        return output.loss, output
