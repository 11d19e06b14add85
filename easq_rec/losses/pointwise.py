"""L_point: cross-entropy of every outcome of every candidate.

Legend: N candidates, O outcomes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.losses import Pointwise
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def outcome_losses(logit_NO: Tensor, outcome_NO: Tensor, amount_O: Tensor) -> Tensor:
    """Loss of each outcome of each candidate, (N, O).

    The cross-entropy of a binary outcome y is y softplus(-z) + (1 - y) softplus(z), least at the probability
    sigmoid(z). For an amount y, weighted logistic regression (Covington et al. 2016) has
    y softplus(-z) + softplus(z), least where exp(z) is the expectation of y.

    Args:
        amount_O: True at amounts.
    """
    negative_NO = torch.where(amount_O, 1.0, 1 - outcome_NO)
    return outcome_NO * F.softplus(-logit_NO) + negative_NO * F.softplus(logit_NO)


class PointwiseTerm(RequestTerm):
    """Compares nothing: every candidate of the stream counts, also that of a request with one, unless
    `losses.pointwise.among` leaves it out.

    It reads the logits without the correction for thinned negatives, because it fits the thinned log.
    """

    def __init__(self, config: Pointwise) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return pairs.candidates(self.config.among).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        predicted, stream = inputs.output.main.outcomes, inputs.batch.stream.candidates
        assert predicted is not None, "losses.pointwise needs model.policy_score='expected_utility'"
        outcome_NO = inputs.batch.outcome_NO[:stream]
        loss_NO = outcome_losses(predicted.logit_NO[:stream], outcome_NO, predicted.amount_O)
        if self.config.outcomes == "weighted":
            loss_NO = loss_NO * (inputs.pairs.utility_O != 0)
        if self.config.among == "triggered":
            assert inputs.pairs.triggered_N is not None, "among='triggered' needs a schema with a trigger"
            loss_NO = loss_NO * inputs.pairs.triggered_N[:, None]
        return loss_NO.sum()
