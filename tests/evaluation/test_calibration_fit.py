"""Maps of predicted outcomes against scikit-learn and scipy, and on predictions whose error is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from easq_rec.config.schema import Outcome
from easq_rec.evaluation.calibration_fit import (
    LEAST,
    apply_maps,
    fit_isotonic,
    fit_maps,
    fit_temperature,
    isotonic_knots,
)
from easq_rec.evaluation.calibration_map import CalibrationMethod, Temperature
from easq_rec.evaluation.metrics import outcome_columns, outcome_metrics

LIKE = Outcome(name="like", weight=1.0)
WATCH = Outcome(name="watch_s", weight=0.1, kind="amount")


def data(count: int = 20_000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(logit_N, binary outcome_N, weight_N): the true logit is 0.6 z - 0.5."""
    generator = torch.Generator().manual_seed(seed)
    logit_N = torch.randn(count, generator=generator, dtype=torch.float64) * 1.5
    chance_N = torch.rand(count, generator=generator, dtype=torch.float64)
    outcome_N = (chance_N < (0.6 * logit_N - 0.5).sigmoid()).double()
    return logit_N, outcome_N, torch.where(outcome_N > 0, 1.0, 4.0).double()


def test_temperature_equals_logistic_regression() -> None:
    logit_N, outcome_N, weight_N = data()
    found = fit_temperature(logit_N, outcome_N, weight_N, amount=False)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000)
    theirs.fit(logit_N[:, None].numpy(), outcome_N.numpy(), sample_weight=weight_N.numpy())
    assert (found.scale, found.bias) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-5)
    plain = fit_temperature(logit_N, outcome_N, torch.ones_like(weight_N), amount=False)
    assert (plain.scale, plain.bias) == pytest.approx((0.6, -0.5), abs=0.05)


def test_temperature_of_an_amount_has_the_least_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    logit_N = torch.randn(20_000, generator=generator, dtype=torch.float64)
    amount_N = (0.5 * logit_N + 0.3).exp() * 2 * torch.rand(20_000, generator=generator, dtype=torch.float64)
    found = fit_temperature(logit_N, amount_N, torch.ones_like(logit_N), amount=True)

    def loss(slope: np.ndarray) -> float:
        z_N = slope[0] * logit_N.numpy() + slope[1]
        return float((amount_N.numpy() * np.logaddexp(0, -z_N) + np.logaddexp(0, z_N)).mean())

    wanted = minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert [found.scale, found.bias] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert [found.scale, found.bias] == pytest.approx([0.5, 0.3], abs=0.05)


def test_temperature_never_turns_the_order_around() -> None:
    logit_N, outcome_N, weight_N = data()
    found = fit_temperature(-logit_N, outcome_N, weight_N, amount=False)
    rate = float((weight_N * outcome_N).sum() / weight_N.sum())
    assert found == Temperature(scale=0.0, bias=pytest.approx(math.log(rate / (1 - rate))))


def test_temperature_is_finite_where_the_classes_are_separated() -> None:
    logit_N = torch.linspace(-1, 1, 40, dtype=torch.float64)
    found = fit_temperature(logit_N, (logit_N > 0).double(), torch.ones_like(logit_N), amount=False)
    assert math.isfinite(found.scale) and found.scale > 1 and math.isfinite(found.bias)


VALUES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])


@given(st.lists(st.tuples(VALUES, VALUES, st.sampled_from([1.0, 0.5, 3.0])), min_size=1, max_size=30))
def test_isotonic_equals_scikit_learn(points: list[tuple[float, float, float]]) -> None:
    x_N, y_N, weight_N = (np.array(column) for column in zip(*points, strict=True))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(x_N, y_N, sample_weight=weight_N)
    at_K, to_K = isotonic_knots(x_N, y_N, weight_N)
    grid = np.linspace(-0.1, 1.1, 61)
    np.testing.assert_allclose(np.interp(grid, at_K, to_K), theirs.predict(grid), atol=1e-12)
    assert (np.diff(at_K) > 0).all() and (np.diff(to_K) >= 0).all()


def test_isotonic_values_stay_away_from_0_and_1() -> None:
    value_N, outcome_N = np.linspace(0.1, 0.9, 8), np.array([0.0] * 4 + [1.0] * 4)
    found = fit_isotonic(value_N, outcome_N, np.ones(8), amount=False)
    assert min(found.to) == pytest.approx(0.1) and max(found.to) == pytest.approx(0.9)
    logit_N = found.apply(np.array([-50.0, 0.0, 50.0]), amount=False)
    assert logit_N.tolist() == pytest.approx([math.log(1 / 9), 0.0, math.log(9)])
    amounts = fit_isotonic(value_N, outcome_N * 20, np.ones(8), amount=True)
    assert min(amounts.to) == pytest.approx(1.0) and max(amounts.to) == 20


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_maps_calibrate_other_candidates(method: CalibrationMethod) -> None:
    """Fitted to one sample and tried on another: the errors nearly vanish for a probability and for an amount."""

    def sample(seed: int) -> tuple[Tensor, Tensor]:
        logit_N, outcome_N, _ = data(seed=seed)
        generator = torch.Generator().manual_seed(seed + 100)
        amount_N = (logit_N / 2 - 1).exp() * 2 * torch.rand(len(logit_N), generator=generator, dtype=torch.float64)
        return torch.stack([logit_N, logit_N / 2], 1).float(), torch.stack([outcome_N, amount_N], 1)

    fitted, later, outcomes = sample(0), sample(1), [LIKE, WATCH]
    maps = fit_maps(*fitted, outcomes, method)
    lengths_R = torch.full((len(later[0]) // 10,), 10)
    before, after = (
        outcome_metrics(outcome_columns(logit_NO, later[1], lengths_R, outcomes))
        for logit_NO in (later[0], apply_maps(maps, later[0], outcomes))
    )
    assert before["outcome_calibration_error_like"] > 0.1 and after["outcome_calibration_error_like"] < 0.015
    assert after["outcome_log_loss_like"] < before["outcome_log_loss_like"] - 0.03
    assert before["outcome_ratio_watch_s"] > 2 and after["outcome_ratio_watch_s"] == pytest.approx(1, abs=0.03)
    assert after["outcome_calibration_error_watch_s"] < 0.1 * before["outcome_calibration_error_watch_s"]


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_thinned_negatives_count_as_many(method: CalibrationMethod) -> None:
    """A map that is fitted to a thinned log predicts the rate of the whole log."""
    logit_N, outcome_N, _ = data()
    kept_N = (outcome_N > 0) | (torch.rand(len(logit_N), generator=torch.Generator().manual_seed(5)) < 0.25)
    thinned = Outcome(name="like", weight=1.0, negatives_kept=0.25)
    maps = fit_maps(logit_N[kept_N][:, None], outcome_N[kept_N][:, None], [thinned], method)
    calibrated_N1 = apply_maps(maps, logit_N[:, None], [thinned])
    assert calibrated_N1.sigmoid().mean().item() == pytest.approx(outcome_N.mean().item(), abs=0.01)


def test_an_outcome_with_too_few_events_keeps_its_predictions() -> None:
    logit_N1 = torch.zeros(100, 1)
    outcome_N1 = torch.zeros(100, 1)
    outcome_N1[: LEAST - 1] = 1
    for rare_N1 in (outcome_N1, 1 - outcome_N1):
        assert fit_maps(logit_N1, rare_N1, [LIKE], "isotonic") == {}
    assert fit_maps(logit_N1, outcome_N1, [WATCH], "temperature") == {}
    assert torch.equal(apply_maps({}, logit_N1, [LIKE]), logit_N1.double())


def test_maps_survive_json() -> None:
    logit_N, outcome_N, weight_N = data(500)
    found = fit_isotonic(logit_N.sigmoid().numpy(), outcome_N.numpy(), weight_N.numpy(), amount=False)
    assert tuple(json.loads(json.dumps(found.to))) == found.to
