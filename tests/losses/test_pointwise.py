"""L_point equals the cross-entropy of binary outcomes, and is least at the expectation of an amount."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from easq_rec.config.schema import Outcome
from easq_rec.losses.pointwise import outcome_losses
from easq_rec.training.training_model import TrainingModel
from tests.builders import random_batch, small_config


def test_the_loss_of_a_binary_outcome_is_its_cross_entropy() -> None:
    logit_NO, outcome_NO = torch.randn(50, 2).double() * 4, torch.randint(0, 2, (50, 2)).double()
    found = outcome_losses(logit_NO, outcome_NO, torch.tensor([False, False]))
    expected = F.binary_cross_entropy_with_logits(logit_NO, outcome_NO, reduction="none")
    torch.testing.assert_close(found, expected)


def test_the_loss_of_an_amount_is_least_at_its_mean() -> None:
    amount_N1 = torch.tensor([[0.0], [0.5], [3.0], [12.5]]).double()
    logit = amount_N1.mean().log().requires_grad_()
    outcome_losses(logit.expand(4, 1), amount_N1, torch.tensor([True])).sum().backward()
    assert logit.grad is not None and float(logit.grad) == pytest.approx(0.0, abs=1e-12)


def test_an_amount_is_divided_by_its_unit() -> None:
    config = small_config()
    amounts = [Outcome(name="long_view", weight=1.0, kind="amount", unit=unit) for unit in (1.0, 1_000.0)]
    schemas = [dataclasses.replace(config.schema, outcomes=(amount,), trigger=None) for amount in amounts]
    plain, divided = (random_batch(dataclasses.replace(config, schema=schema)).outcome_NO for schema in schemas)
    torch.testing.assert_close(divided, plain / 1_000)
    assert plain.any()


def test_every_candidate_counts() -> None:
    """Also the candidate of a request with one."""
    config = small_config()
    batch = random_batch(config)
    assert 1 in batch.candidate_offsets_R1.diff()
    _, output = TrainingModel(config, torch.device("cpu"))(batch)
    assert int(output.pairs["pointwise"]) == batch.stream.candidates


def test_a_model_learns_outcomes_and_amounts() -> None:
    """After some steps on one batch, the mean prediction of each outcome is its mean."""
    config = small_config()
    watch = Outcome(name="follow", weight=0.1, kind="amount")
    config = dataclasses.replace(
        config,
        schema=dataclasses.replace(config.schema, outcomes=(*config.schema.outcomes[:2], watch)),
        losses=config.losses.weighted(main=0.0),
    )
    batch = random_batch(config, requests=12)
    batch = dataclasses.replace(batch, outcome_NO=batch.outcome_NO * torch.tensor([1.0, 1.0, 7.0]))
    model = TrainingModel(config, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.ranker.network.parameters(), lr=0.01)
    # Without smaller steps at the end, the means vary by a quarter from step to step.
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[250, 350])
    for _ in range(400):
        optimizer.zero_grad()
        model(batch)[0].backward()
        optimizer.step()
        decay.step()
    predicted = model(batch)[1].network.main.outcomes
    assert predicted is not None
    stream = batch.stream.candidates
    found_O, expected_O = predicted.values()[:stream].mean(0), batch.outcome_NO[:stream].mean(0)
    torch.testing.assert_close(found_O.detach(), expected_O, rtol=0.15, atol=0.05)
