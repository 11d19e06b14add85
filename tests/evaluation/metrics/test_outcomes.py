"""The calibration of predicted outcomes against plain loops and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss
from torch import Tensor

from easq_rec.config.schema import Outcome
from easq_rec.evaluation.metrics import outcome_columns, outcome_metrics
from easq_rec.evaluation.metrics.outcomes import OUTCOME_BINS, bins_of
from easq_rec.evaluation.predict import Predictions

LIKE = Outcome(name="like", weight=1.0)
THINNED = Outcome(name="like", weight=1.0, negatives_kept=0.3)
WATCH = Outcome(name="watch_s", weight=0.1, kind="amount")


def data(outcome: Outcome, requests: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(logit_N1, outcome_N1, lengths_R) of predictions that are too high by 0.4; many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    lengths_R = torch.randint(0, 9, (requests,), generator=generator)
    logit_N = torch.randn(int(lengths_R.sum()), generator=generator, dtype=torch.float64).mul(4).round().div(4)
    chance_N = torch.rand(len(logit_N), generator=generator, dtype=torch.float64)
    truth_N = logit_N - 0.4
    outcome_N = (chance_N < truth_N.sigmoid()).double() if outcome.kind == "binary" else truth_N.exp() * 2 * chance_N
    return logit_N[:, None], outcome_N[:, None], lengths_R


def slow_metrics(logit_N1: Tensor, outcome_N1: Tensor, outcome: Outcome) -> dict[str, float]:
    """Candidate by candidate, bin by bin."""
    logits, happened = logit_N1[:, 0].tolist(), outcome_N1[:, 0].tolist()
    amount = outcome.kind == "amount"
    values = [math.exp(z) if amount else 1 / (1 + math.exp(-z)) for z in logits]
    edges = np.quantile(values, np.linspace(0, 1, OUTCOME_BINS + 1))[1:-1].tolist()
    gaps = [0.0] * OUTCOME_BINS
    predicted = observed = total = loss = 0.0
    for value, y in zip(values, happened, strict=True):
        weight = 1.0 if y > 0 else 1 / outcome.negatives_kept
        gaps[sum(value > edge for edge in edges)] += weight * (value - y)
        predicted, observed, total = predicted + weight * value, observed + weight * y, total + weight
        if not amount:
            loss -= weight * math.log(value if y else 1 - value)
    found = {"outcome_calibration_error": sum(map(abs, gaps)) / total}
    found |= {} if amount else {"outcome_log_loss": loss / total}
    found |= {"outcome_ratio": predicted / observed}
    return {f"{kind}_{outcome.name}": value for kind, value in found.items()}


@pytest.mark.parametrize("outcome", [LIKE, THINNED, WATCH])
def test_metrics_equal_a_loop_over_candidates(outcome: Outcome) -> None:
    logit_N1, outcome_N1, lengths_R = data(outcome)
    found = outcome_metrics(outcome_columns(logit_N1, outcome_N1, lengths_R, [outcome]))
    wanted = slow_metrics(logit_N1, outcome_N1, outcome)
    assert list(found) == list(wanted)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found[f"outcome_ratio_{outcome.name}"] != pytest.approx(1, abs=0.05)


def test_metrics_equal_those_of_scikit_learn() -> None:
    """Without equal predictions both have the same bins, of 300 candidates each."""
    generator = np.random.default_rng(0)
    logit_N = generator.normal(size=3_000)
    outcome_N = (generator.random(3_000) < 1 / (1 + np.exp(0.3 - logit_N))).astype(float)
    value_N = 1 / (1 + np.exp(-logit_N))
    observed_K, predicted_K = calibration_curve(outcome_N, value_N, n_bins=OUTCOME_BINS, strategy="quantile")
    logits, outcomes = (torch.from_numpy(value)[:, None] for value in (logit_N, outcome_N))
    columns = outcome_columns(logits, outcomes, torch.full((300,), 10), [LIKE])
    weight_K = columns["outcome_weight_like"].sum(0)
    assert weight_K.tolist() == [300] * OUTCOME_BINS
    np.testing.assert_allclose(columns["outcome_predicted_like"].sum(0) / weight_K, predicted_K, rtol=1e-12)
    np.testing.assert_allclose(columns["outcome_observed_like"].sum(0) / weight_K, observed_K, rtol=1e-12)
    found = outcome_metrics(columns)
    assert found["outcome_calibration_error_like"] == pytest.approx(np.abs(observed_K - predicted_K).mean())
    assert found["outcome_log_loss_like"] == pytest.approx(log_loss(outcome_N, value_N))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 0.1, 0.3]), max_size=40), st.integers(1, 6))
def test_bins_have_the_edges_of_numpys_quantiles(values: list[float], count: int) -> None:
    bin_N = bins_of(torch.tensor(values, dtype=torch.float64), count).tolist()
    edges = np.quantile(values, np.linspace(0, 1, count + 1))[1:-1] if values else np.zeros(0)
    assert bin_N == np.searchsorted(edges, values, side="left").tolist()


def test_weights_undo_the_thinning_of_negatives() -> None:
    """Probabilities that are right for all candidates are right for a log that keeps three tenths of the negatives."""
    generator = torch.Generator().manual_seed(0)
    logit_N = torch.randn(200_000, generator=generator, dtype=torch.float64) - 1
    outcome_N = (torch.rand(200_000, generator=generator, dtype=torch.float64) < logit_N.sigmoid()).double()
    kept_N = (outcome_N > 0) | (torch.rand(200_000, generator=generator) < 0.3)
    logit_N1, outcome_N1 = logit_N[kept_N][:, None], outcome_N[kept_N][:, None]
    lengths_R = torch.tensor([len(logit_N1)])
    weighed, plain = (
        outcome_metrics(outcome_columns(logit_N1, outcome_N1, lengths_R, [THINNED], thinned=thinned))
        for thinned in (True, False)
    )
    assert weighed["outcome_ratio_like"] == pytest.approx(1, abs=0.01)
    assert weighed["outcome_calibration_error_like"] < 0.006
    assert plain["outcome_ratio_like"] < 0.7 and plain["outcome_calibration_error_like"] > 0.15


def test_sums_of_requests_add_up_to_those_of_all() -> None:
    """Users can be drawn by adding rows: a row holds its own candidates and no others."""
    logit_N1, outcome_N1, lengths_R = data(LIKE)
    columns = outcome_columns(logit_N1, outcome_N1, lengths_R, [LIKE])
    assert columns["outcome_weight_like"].sum(1).tolist() == lengths_R.tolist()
    happened_R = [part.sum().item() for part in outcome_N1.split(lengths_R.tolist())]
    assert columns["outcome_observed_like"].sum(1).tolist() == happened_R


def test_a_model_without_predicted_outcomes_has_no_columns() -> None:
    nothing = torch.zeros(0)
    none = torch.zeros(0, dtype=torch.int64)
    predictions = Predictions(
        main_N=nothing, served_N=nothing, truth_N=nothing, utility_N=nothing, lengths_R=none, user_R=none,
        request_id_R=none,
    )  # fmt: skip
    assert predictions.outcome_columns([LIKE]) == {} and outcome_metrics({}) == {}


def test_predictions_that_are_nan_are_refused() -> None:
    logit_N1, outcome_N1, lengths_R = data(LIKE)
    logit_N1[3] = math.nan
    with pytest.raises(ValueError, match="outcome like: 1 of"):
        outcome_columns(logit_N1, outcome_N1, lengths_R, [LIKE])
