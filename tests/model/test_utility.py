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


def score(found: list[Outcome], logit_NO: torch.Tensor) -> torch.Tensor:
    """Scores of logits, in their dtype."""
    utility = ExpectedUtility(found).to(logit_NO.dtype)
    return utility(utility.predicted(logit_NO))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("weights", [(1.0, 0.5, 0.5), (1.0, 0.5, -2.0), (-1.0, -0.5, -2.0), (1.0, 0.0, 3.0)])
def test_the_score_is_the_log_odds_of_the_scaled_utility(weights: tuple[float, ...]) -> None:
    score_N = score(outcomes(*weights), LOGITS)
    lowest, highest = sum(min(w, 0) for w in weights), sum(max(w, 0) for w in weights)
    for logits, found in zip(LOGITS.tolist(), score_N.tolist(), strict=True):
        utility = sum(w * sigmoid(z) for w, z in zip(weights, logits, strict=True))
        share = (utility - lowest) / (highest - lowest)
        assert found == pytest.approx(math.log(share / (1 - share)))


def test_the_score_of_one_outcome_is_its_logit() -> None:
    """Also where the probability rounds to 0 or 1."""
    logit_N1 = torch.tensor([[-200.0], [-1.5], [0.0], [90.0]])
    torch.testing.assert_close(score(outcomes(0.7), logit_N1), logit_N1.squeeze(-1))
    torch.testing.assert_close(score(outcomes(-0.7), logit_N1), -logit_N1.squeeze(-1))


def test_with_an_amount_the_score_is_the_log_of_the_utility() -> None:
    score_N = score(outcomes(1.0, -0.5, 2.0, amount=True), LOGITS)
    for (first, second, third), found in zip(LOGITS.tolist(), score_N.tolist(), strict=True):
        utility = sigmoid(first) + 0.5 * (1 - sigmoid(second)) + 2.0 * math.exp(third)
        assert found == pytest.approx(math.log(utility))


def test_values_are_probabilities_and_expectations() -> None:
    amount_O = torch.tensor([False, False, True])
    value_NO = PredictedOutcomes(logit_NO=LOGITS, amount_O=amount_O).values()
    torch.testing.assert_close(value_NO[:, :2], LOGITS[:, :2].sigmoid())
    torch.testing.assert_close(value_NO[:, 2], LOGITS[:, 2].exp())


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="all weights are 0"):
        ExpectedUtility(outcomes(0.0, 0.0))


def test_thinned_negatives_correct_probabilities_and_score_but_not_the_logits_of_the_loss() -> None:
    """Of 1,000 candidates 100 have the outcome: after one negative in four was kept, 100 of 325 have it."""
    thinned = Outcome(name="like", weight=1.0, negatives_kept=0.25)
    whole = Outcome(name="watch_s", weight=0.5, kind="amount")
    utility = ExpectedUtility([thinned, whole]).double()
    logit_NO = torch.tensor([[math.log(100 / 225), 0.3]], dtype=torch.float64)
    predicted = utility.predicted(logit_NO)
    assert predicted.logit_NO is logit_NO
    assert predicted.values()[0].tolist() == pytest.approx([0.1, math.exp(0.3)])
    assert utility(predicted).item() == pytest.approx(math.log(0.1 + 0.5 * math.exp(0.3)))


def test_without_thinning_nothing_is_added() -> None:
    utility = ExpectedUtility(outcomes(1.0, 0.5, 0.5)).double()
    assert utility.log_kept_O is None and utility.predicted(LOGITS).corrected_NO is LOGITS


@pytest.mark.parametrize(("kind", "kept"), [("binary", 0.0), ("binary", 1.5), ("amount", 0.5)])
def test_impossible_shares_of_negatives_are_refused(kind: str, kept: float) -> None:
    with pytest.raises(ValueError, match=f"outcome like: negatives_kept={kept}"):
        Outcome(name="like", weight=1.0, kind=kind, negatives_kept=kept)  # type: ignore[arg-type]
