"""The listwise softmax equals a loop over requests, by itself and in the objective."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.losses.listwise import listwise_softmax
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config

REQUESTS = st.lists(
    st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 0.5, 1.0])), max_size=5), min_size=1, max_size=4
)
"""Lists of candidates, each (score, utility)."""


def loop(requests: list[list[tuple[float, float]]]) -> tuple[float, list[list[float]], int]:
    """(sum, its gradient, number of requests that count), computed from the definition."""
    total, gradients, count = 0.0, [], 0
    for request in requests:
        if len({utility for _, utility in request}) < 2:
            gradients.append([0.0] * len(request))
            continue
        count += 1
        target, policy = (
            [math.exp(candidate[k]) / sum(math.exp(other[k]) for other in request) for candidate in request]
            for k in (1, 0)
        )
        total -= sum(t * math.log(p) for t, p in zip(target, policy, strict=True))
        gradients.append([p - t for t, p in zip(target, policy, strict=True)])
    return total, gradients, count


@given(REQUESTS)
@settings(max_examples=80, deadline=None)
def test_listwise_softmax_equals_a_loop_over_requests(requests: list[list[tuple[float, float]]]) -> None:
    """Values and gradients are equal, although the padding has large values.

    A request without candidates has no gradient.
    """
    longest = max(map(len, requests)) + 1
    score_RC, utility_RC = (torch.full((len(requests), longest), 99.0, dtype=torch.float64) for _ in range(2))
    mask_RC = torch.zeros(len(requests), longest, dtype=torch.bool)
    for r, request in enumerate(requests):
        for c, (score, utility) in enumerate(request):
            score_RC[r, c], utility_RC[r, c], mask_RC[r, c] = score, utility, True
    score_RC.requires_grad_()
    expected, gradients, _ = loop(requests)
    compared_R = torch.tensor([len({utility for _, utility in request}) > 1 for request in requests])
    found = listwise_softmax(score_RC, utility_RC, mask_RC, compared_R)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-9)
    (gradient_RC,) = torch.autograd.grad(found, score_RC)
    for r, gradient in enumerate(gradients):
        assert gradient_RC[r, : len(gradient)].tolist() == pytest.approx(gradient, abs=1e-9)
        assert not gradient_RC[r, len(gradient) :].any()


def test_listwise_loss_replaces_the_main_loss_or_is_added_to_it() -> None:
    """The objective adds, with its weight, the mean over requests with different utilities."""
    config = small_config("main_only")
    batch = random_batch(config)
    utility_N = (batch.outcome_NO @ torch.tensor([outcome.weight for outcome in config.schema.outcomes])).tolist()
    ends = batch.candidate_offsets_R1.tolist()
    for weights in ({"main": 0.0, "listwise": 0.5}, {"main": 1.0, "listwise": 0.5}):
        torch.manual_seed(0)
        weighted = dataclasses.replace(config, losses=config.losses.weighted(pointwise=0.0, **weights))
        model = TrainingModel(weighted, torch.device("cpu"))
        excite(model)
        loss, output = model(batch)
        score_N = output.network.main.score_N.tolist()
        expected, _, count = loop(
            [list(zip(score_N[a:b], utility_N[a:b], strict=True)) for a, b in itertools.pairwise(ends)]
        )
        assert int(output.pairs["listwise"]) == count > 1
        assert float(output.losses["listwise"]) == pytest.approx(expected / count, rel=1e-5)
        assert ("main" in output.losses) == (weights["main"] > 0)
        total = sum(weights[name] * float(part) for name, part in output.losses.items())
        assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
