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
    """Fits the log that training reads, in which negatives may be thinned. The losses of the outcomes read it."""
    amount_O: Tensor
    """True at amounts, False at binary outcomes."""
    log_kept_O: Tensor | None = None
    """log of `Outcome.negatives_kept`; None: all negatives were kept."""

    @property
    def corrected_NO(self) -> Tensor:
        """The logits for the whole log. A log that keeps the share k of its negatives has 1/k times the odds."""
        return self.logit_NO if self.log_kept_O is None else self.logit_NO + self.log_kept_O

    def values(self) -> Tensor:
        """Probability of each binary outcome and expectation of each amount in the whole log, (N, O)."""
        logit_NO = self.corrected_NO
        return torch.where(self.amount_O, logit_NO.exp(), logit_NO.sigmoid())


class ExpectedUtility(nn.Module):
    """One score per candidate from one logit per outcome. Weights are those of training (`weight_in_training`).

    A binary outcome has probability sigmoid(logit), an amount has expectation exp(logit). Let U be the sum of weight
    times probability, rescaled to lie between 0 and 1. The score is log(U / (1 - U)). It ranks as U does, has no bound
    at which gradients vanish, and for a single binary outcome it is the logit. With an amount, U has no maximum, and
    the score is log U.

    The logits are first corrected for thinned negatives (`Outcome.negatives_kept`): the score weighs what happens among
    all candidates, and losses of the score train the score that is served. A thinned log would give a rare outcome with
    few negatives left too much weight beside the others.

    Raises:
        UserError: all weights are 0.
    """

    log_weight_O: Tensor
    sign_O: Tensor
    amount_O: Tensor
    log_kept_O: Tensor | None

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__()
        weight_O = torch.tensor([outcome.weight_in_training for outcome in outcomes])
        if not weight_O.any():
            names = ", ".join(outcome.name for outcome in outcomes)
            raise UserError(f"schema.outcomes: all weights are 0 ({names}): give at least one outcome a weight")
        self.bounded = all(outcome.kind == "binary" for outcome in outcomes)
        self.register_buffer("log_weight_O", weight_O.abs().log(), persistent=False)
        self.register_buffer("sign_O", torch.where(weight_O < 0, -1.0, 1.0), persistent=False)
        self.register_buffer("amount_O", torch.tensor([o.kind == "amount" for o in outcomes]), persistent=False)
        kept_O = torch.tensor([outcome.negatives_kept for outcome in outcomes])
        self.register_buffer("log_kept_O", kept_O.log() if bool((kept_O < 1).any()) else None, persistent=False)

    def predicted(self, logit_NO: Tensor) -> PredictedOutcomes:
        """The outcomes that the logits of a tower predict."""
        return PredictedOutcomes(logit_NO=logit_NO, amount_O=self.amount_O, log_kept_O=self.log_kept_O)

    def forward(self, outcomes: PredictedOutcomes) -> Tensor:
        """(N,)."""
        logit_NO = outcomes.corrected_NO
        signed_NO = logit_NO * self.sign_O
        log_value_NO = torch.where(self.amount_O, logit_NO, F.logsigmoid(signed_NO))
        utility_N = (log_value_NO + self.log_weight_O).logsumexp(-1)
        if not self.bounded:
            return utility_N
        return utility_N - (F.logsigmoid(-signed_NO) + self.log_weight_O).logsumexp(-1)
