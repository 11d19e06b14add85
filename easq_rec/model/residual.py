"""The score of counts, whose residual the network learns.

A naive Bayes estimate of the log odds of an outcome is its prior log odds, plus for each count how much the log odds of
its rate differ from its prior. The outcome's logit is this score plus the output of the network. One learned weight
per count corrects for evidence that several counts share.

Legend: N candidates, F numbers of the candidates' features, C counts of outcomes that are predicted, O outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from easq_rec.config.schema import FeatureSchema
from easq_rec.model.initial import Constant, Law

RATE, PRIOR = 0, 2
"""Places of the logit of the smoothed rate and of the prior's among the numbers of a count."""


class CountResidual(nn.Module):
    """Log odds of each outcome by the counts, (N, F) raw numbers to (N, O). An outcome without counts gets 0.

    The numbers are those before `FloatEncoder`, which would shift and scale them.
    """

    rate_C: Tensor
    prior_C: Tensor
    outcome_CO: Tensor
    first_O: Tensor
    counted_O: Tensor

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        outcome_of = {count.name: count.counted for count in schema.counts}
        names = [outcome.name for outcome in schema.outcomes]
        place, rates, owners = 0, [], []
        for feature in schema.floats:
            if feature.kind == "count" and outcome_of[feature.column] in names:
                rates.append(place + RATE)
                owners.append(names.index(outcome_of[feature.column]))
            place += feature.numbers
        rate_C, owner_C = torch.tensor(rates, dtype=torch.int64), torch.tensor(owners, dtype=torch.int64)
        outcome_CO = nn.functional.one_hot(owner_C, len(names)).float()
        self.weight_C = nn.Parameter(torch.empty(len(rates)))
        self.start = 1.0 / max(int(outcome_CO.sum(0).max()), 1)
        self.register_buffer("rate_C", rate_C, persistent=False)
        self.register_buffer("prior_C", rate_C + (PRIOR - RATE), persistent=False)
        self.register_buffer("outcome_CO", outcome_CO, persistent=False)
        # The prior of an outcome is that of its first count.
        self.register_buffer("first_O", outcome_CO.argmax(0), persistent=False)
        self.register_buffer("counted_O", outcome_CO.amax(0), persistent=False)

    def laws(self) -> Mapping[str, Law]:
        return {"weight_C": Constant(self.start)}

    def forward(self, number_NF: Tensor) -> Tensor:
        prior_NC = number_NF[:, self.prior_C]
        evidence_NC = (number_NF[:, self.rate_C] - prior_NC) * self.weight_C
        # A product of matrices would round the evidence to bf16 under autocast.
        total_NO = (evidence_NC[:, :, None] * self.outcome_CO).sum(1)
        return total_NO + prior_NC[:, self.first_O] * self.counted_O
