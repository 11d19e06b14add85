"""The score of counts of answers, whose residual the satisfaction tower learns.

A naive Bayes estimate of the log odds that a candidate satisfies is, for each count, how much the log odds of its rate
differ from those of the overall rate. Only the satisfaction score reads these counts.

Legend: N candidates, F numbers of the features, C counts of answers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from easq_rec.config.schema import Feature
from easq_rec.model.initial import Constant, Law
from easq_rec.model.residual import PRIOR, RATE


class AnswerRates(nn.Module):
    """Raw numbers of counts, (N, F), to what is added to the output of the satisfaction tower, (N,).

    Counts share answers, so each weight starts at 1 / C and is learned.
    """

    def __init__(self, features: tuple[Feature, ...]) -> None:
        super().__init__()
        self.numbers = features[0].numbers
        """Numbers of a count."""
        self.weight_C = nn.Parameter(torch.empty(len(features)))

    def laws(self) -> Mapping[str, Law]:
        return {"weight_C": Constant(1.0 / len(self.weight_C))}

    def forward(self, number_NF: Tensor) -> Tensor:
        rate_NC, prior_NC = (number_NF[:, place :: self.numbers] for place in (RATE, PRIOR))
        # A product of matrices would round the differences to bf16 under autocast.
        score_N: Tensor = ((rate_NC - prior_NC) * self.weight_C).sum(1)
        return score_N
