"""The policy score is the log odds of the expected utility of the predicted outcomes."""

from __future__ import annotations

import math

import pytest
import torch

from easq_rec.config.schema import Outcome
from easq_rec.model.utility import ExpectedUtility, PredictedOutcomes

LOGITS = torch.tensor([[-2.0, 0.5, 1.0], [0.0, 0.0, -3.0], [4.0, -1.0, 2.0]], dtype=torch.float64)


def outcomes(*weights: float, amount: bool = False) -> list[Outcome]:
    """Outcomes of these weights; with `amount` the last one is an amount."""
    kinds = ["binary"] * (len(weights) - amount) + ["amount"] * amount
    return [Outcome(name=f"o{i}", weight=w, kind=k) for i, (w, k) in enumerate(zip(weights, kinds, strict=True))]  # type: ignore[arg-type]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("weights", [(1.0, 0.5, 0.5), (1.0, 0.5, -2.0), (-1.0, -0.5, -2.0), (1.0, 0.0, 3.0)])
def test_the_score_is_the_log_odds_of_the_scaled_utility(weights: tuple[float, ...]) -> None:
    score_N = ExpectedUtility(outcomes(*weights)).double()(LOGITS)
    lowest, highest = sum(min(w, 0) for w in weights), sum(max(w, 0) for w in weights)
    for logits, score in zip(LOGITS.tolist(), score_N.tolist(), strict=True):
        utility = sum(w * sigmoid(z) for w, z in zip(weights, logits, strict=True))
        share = (utility - lowest) / (highest - lowest)
        assert score == pytest.approx(math.log(share / (1 - share)))


def test_the_score_of_one_outcome_is_its_logit() -> None:
    """Also where the probability rounds to 0 or 1."""
    logit_N1 = torch.tensor([[-200.0], [-1.5], [0.0], [90.0]])
    torch.testing.assert_close(ExpectedUtility(outcomes(0.7))(logit_N1), logit_N1.squeeze(-1))
    torch.testing.assert_close(ExpectedUtility(outcomes(-0.7))(logit_N1), -logit_N1.squeeze(-1))


def test_with_an_amount_the_score_is_the_log_of_the_utility() -> None:
    score_N = ExpectedUtility(outcomes(1.0, -0.5, 2.0, amount=True)).double()(LOGITS)
    for (first, second, third), score in zip(LOGITS.tolist(), score_N.tolist(), strict=True):
        utility = sigmoid(first) + 0.5 * (1 - sigmoid(second)) + 2.0 * math.exp(third)
        assert score == pytest.approx(math.log(utility))


def test_values_are_probabilities_and_expectations() -> None:
    amount_O = torch.tensor([False, False, True])
    value_NO = PredictedOutcomes(logit_NO=LOGITS, amount_O=amount_O).values()
    torch.testing.assert_close(value_NO[:, :2], LOGITS[:, :2].sigmoid())
    torch.testing.assert_close(value_NO[:, 2], LOGITS[:, 2].exp())


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="all weights are 0"):
        ExpectedUtility(outcomes(0.0, 0.0))
