"""The ranker: embedding tables and dense network. It never reads a label, so serving uses it as it is.

Legend: N candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.model.embeddings import RequestEmbeddings
from easq_rec.model.id_tables import IdTables
from easq_rec.model.initial import initialise
from easq_rec.model.network import NetworkOutput, RankingNetwork
from easq_rec.model.utility import PredictedOutcomes


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the N candidates of a batch."""

    main_N: Tensor
    """Score of the main tower, the log odds of the expected engagement utility."""
    served_N: Tensor
    """Policy score: what is served."""
    satisfaction_N: Tensor | None
    """Satisfaction score; None without a satisfaction tower."""
    outcomes: PredictedOutcomes | None = None
    """What the main tower predicts of each outcome; None if it computes the policy score directly."""


class Ranker(nn.Module):
    """Embedding tables and dense network: RequestBatch to scores.

    The initial weights depend on `config.trainer.seed` and the parameters' names. Tables on the meta device get them
    when `training.sharding` has allocated them.

    Args:
        device: of the tables; `meta` leaves their memory to DistributedModelParallel.
        autocast: dtype of the dense products; None: fp32.
    """

    def __init__(self, config: Config, device: torch.device, *, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        satisfaction = config.model.satisfaction is not None
        self.embeddings = RequestEmbeddings(
            config.schema, device, satisfaction=satisfaction, std=config.model.table_std
        )
        self.ids = IdTables(config.schema)
        self.network = RankingNetwork(
            config.schema,
            config.model,
            max_history=config.data.max_history,
            evidence=config.losses.evidence_scores,
            policy_on_replayed=config.losses.policy_on_replayed,
            smoothing=config.losses.reference_smoothing,
            autocast=autocast,
        )
        initialise(self, seed=config.trainer.seed, prefix="ranker")
        self.network.start_average()

    def forward(self, batch: RequestBatch) -> NetworkOutput:
        user, sequence, candidate = self.embeddings(batch)
        return self.network(user, sequence, candidate, batch)

    @torch.no_grad()
    def score(self, batch: RequestBatch) -> Scores:
        """Scores of every candidate, in eval mode. A batch to score has ids of admitted tables, not their rows."""
        assert not self.training, "score() ranks all requests alike: call eval() first"
        output = self(self.ids.rows_in(batch))
        main, reference = output.main, output.reference
        satisfaction_N = reference.score_N if reference is not None else None
        return Scores(
            main_N=main.score_N,
            served_N=self.network.policy_score(main.score_N, satisfaction_N),
            satisfaction_N=satisfaction_N,
            outcomes=main.outcomes,
        )
