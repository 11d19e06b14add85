"""Fits the maps that calibrate predicted outcomes to what happened to held-out candidates.

Legend: N candidates, O outcomes, G groups of candidates with equal predictions, K knots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from easq_rec.config.schema import Outcome
from easq_rec.evaluation.calibration_map import CalibrationMethod, Floats, Isotonic, OutcomeMap, Temperature
from easq_rec.evaluation.metrics.outcomes import values, weights
from easq_rec.losses.pointwise import outcome_losses

LEAST = 10
"""A fit needs this many candidates with the outcome, and as many without it. An outcome with fewer keeps its
predictions."""


def fit_maps(
    logit_NO: Tensor,
    outcome_NO: Tensor,
    outcomes: Sequence[Outcome],
    method: CalibrationMethod,
    *,
    thinned: bool = True,
) -> dict[str, OutcomeMap]:
    """A map for each outcome, by name. Outcomes with too few events have none.

    Args:
        logit_NO, outcome_NO, thinned: as in `outcome_columns`.
    """
    found: dict[str, OutcomeMap] = {}
    for o, outcome in enumerate(outcomes):
        logit_N, outcome_N = logit_NO[:, o].double(), outcome_NO[:, o].double()
        amount, happened = outcome.kind == "amount", int((outcome_N > 0).sum())
        if happened < LEAST or (not amount and len(outcome_N) - happened < LEAST):
            continue
        weight_N = weights(outcome_N, outcome) if thinned else torch.ones_like(outcome_N)
        if method == "temperature":
            found[outcome.name] = fit_temperature(logit_N, outcome_N, weight_N, amount=amount)
        else:
            value_N = values(logit_N, outcome)
            found[outcome.name] = fit_isotonic(value_N.numpy(), outcome_N.numpy(), weight_N.numpy(), amount=amount)
    return found


def apply_maps(maps: Mapping[str, OutcomeMap], logit_NO: Tensor, outcomes: Sequence[Outcome]) -> Tensor:
    """The calibrated logits, (N, O). An outcome without a map keeps its own."""
    calibrated_NO = logit_NO.double().clone()
    for o, outcome in enumerate(outcomes):
        if outcome.name in maps:
            logit_N = maps[outcome.name].apply(calibrated_NO[:, o].numpy(), amount=outcome.kind == "amount")
            calibrated_NO[:, o] = torch.from_numpy(logit_N)
    return calibrated_NO


def fit_temperature(logit_N: Tensor, outcome_N: Tensor, weight_N: Tensor, *, amount: bool) -> Temperature:
    """The scale and bias of least loss: the loss that trains the outcome, which is convex in both.

    A head that is worse than the overall rate would get a negative scale; it gets 0, and the bias of the overall rate.
    """
    # The optimizer sees a standardised logit, or it would need many steps.
    mean, spread = logit_N.mean(), logit_N.std().clamp(min=1e-9)
    standard_N, amount_O = (logit_N - mean) / spread, torch.tensor(amount)
    slope = torch.stack([spread, mean]).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [slope], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses_N = outcome_losses(slope[0] * standard_N + slope[1], outcome_N, amount_O)
        value = (weight_N * losses_N).sum() / weight_N.sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    steepness, level = slope.tolist()
    if steepness <= 0:
        rate = float((weight_N * outcome_N).sum() / weight_N.sum())
        return Temperature(scale=0.0, bias=math.log(rate) if amount else math.log(rate) - math.log1p(-rate))
    scale = steepness / float(spread)
    return Temperature(scale=scale, bias=level - scale * float(mean))


def fit_isotonic(value_N: Floats, outcome_N: Floats, weight_N: Floats, *, amount: bool) -> Isotonic:
    """The values that never fall with the prediction and have the least squared error.

    Values of 0 and 1 would have an infinite logit, so values keep a distance of 1 / (candidates + 2) from both; an
    amount keeps this share of the mean from 0.
    """
    at_K, to_K = isotonic_knots(value_N, outcome_N, weight_N)
    least = 1 / (float(weight_N.sum()) + 2)
    if amount:
        to_K = np.maximum(to_K, least * np.average(outcome_N, weights=weight_N))
    else:
        to_K = np.clip(to_K, least, 1 - least)
    return Isotonic(at=tuple(at_K.tolist()), to=tuple(to_K.tolist()))


def isotonic_knots(x_N: Floats, y_N: Floats, weight_N: Floats) -> tuple[Floats, Floats]:
    """Weighted isotonic regression of y on x by pooling adjacent violators: (x, value), both (K,), ascending in x.

    A block of equal values has one knot at each end.
    """
    x_G, group_N = np.unique(x_N, return_inverse=True)
    mass_G = np.bincount(group_N, weight_N)
    mean_G = np.bincount(group_N, weight_N * y_N) / mass_G
    # Blocks so far: first group, weight and mean. A block that is not above its predecessor is merged with it.
    first: list[int] = []
    mass: list[float] = []
    mean: list[float] = []
    for g, (m, y) in enumerate(zip(mass_G.tolist(), mean_G.tolist(), strict=True)):
        start = g
        while mean and mean[-1] >= y:
            start, before, level = first.pop(), mass.pop(), mean.pop()
            m, y = m + before, (m * y + before * level) / (m + before)
        first.append(start)
        mass.append(m)
        mean.append(y)
    last = [*(start - 1 for start in first[1:]), len(x_G) - 1]
    ends = np.stack([first, last], axis=1)
    single = ends[:, 0] == ends[:, 1]
    kept = np.stack([np.ones(len(ends), bool), ~single], axis=1)
    return x_G[ends][kept], np.repeat(np.array(mean), kept.sum(1))
