"""The policy score of a main tower that predicts every outcome: the log odds of the expected engagement utility.

Legend: N candidates, O outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easq_rec.config.schema import Outcome
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PredictedOutcomes:
    """What the main tower predicts of the outcomes."""

    logit_NO: Tensor
    amount_O: Tensor
    """True at amounts, False at binary outcomes."""

    def values(self) -> Tensor:
        """Probability of each binary outcome and expectation of each amount, (N, O)."""
        return torch.where(self.amount_O, self.logit_NO.exp(), self.logit_NO.sigmoid())


class ExpectedUtility(nn.Module):
    """One score per candidate from one logit per outcome.

    A binary outcome has probability sigmoid(logit), an amount has expectation exp(logit). Let U be the sum of weight
    times probability, rescaled to lie between 0 and 1. The score is log(U / (1 - U)). It ranks as U does, has no bound
    at which gradients vanish, and for a single binary outcome it is the logit. With an amount, U has no maximum, and
    the score is log U.

    Raises:
        UserError: all weights are 0.
    """

    log_weight_O: Tensor
    sign_O: Tensor
    amount_O: Tensor

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__()
        weight_O = torch.tensor([outcome.weight for outcome in outcomes])
        if not weight_O.any():
            names = ", ".join(outcome.name for outcome in outcomes)
            raise UserError(f"schema.outcomes: all weights are 0 ({names}): give at least one outcome a weight")
        self.bounded = all(outcome.kind == "binary" for outcome in outcomes)
        self.register_buffer("log_weight_O", weight_O.abs().log(), persistent=False)
        self.register_buffer("sign_O", torch.where(weight_O < 0, -1.0, 1.0), persistent=False)
        self.register_buffer("amount_O", torch.tensor([o.kind == "amount" for o in outcomes]), persistent=False)

    def forward(self, logit_NO: Tensor) -> Tensor:
        """(N,)."""
        signed_NO = logit_NO * self.sign_O
        log_value_NO = torch.where(self.amount_O, logit_NO, F.logsigmoid(signed_NO))
        utility_N = (log_value_NO + self.log_weight_O).logsumexp(-1)
        if not self.bounded:
            return utility_N
        return utility_N - (F.logsigmoid(-signed_NO) + self.log_weight_O).logsumexp(-1)
