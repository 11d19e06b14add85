"""Two utilities: training and the policy score use `Outcome.training_weight`, the metrics `Outcome.weight`."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from easq_rec.config import Config
from easq_rec.config.schema import Outcome
from easq_rec.evaluation.predict import predict
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config

MEASURED, TRAINED = (1.0, 0.5, 0.25), (1.0, 3.0, -2.0)


def config_of(weights: tuple[float, ...], training: tuple[float | None, ...] = (None,) * 3) -> Config:
    config = small_config("main_only")
    outcomes = tuple(
        dataclasses.replace(outcome, weight=weight, training_weight=trained)
        for outcome, weight, trained in zip(config.schema.outcomes, weights, training, strict=True)
    )
    losses = config.losses.weighted(listwise=0.5)
    return dataclasses.replace(config, losses=losses, schema=dataclasses.replace(config.schema, outcomes=outcomes))


def model_of(config: Config) -> TrainingModel:
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    return model


def test_training_is_that_of_a_schema_with_these_weights() -> None:
    """All losses, and the gradients of all parameters, are those of a schema whose weights are the training weights."""
    both, alone, other = (config_of(*weights) for weights in ((MEASURED, TRAINED), (TRAINED,), (MEASURED,)))
    models = [model_of(config) for config in (both, alone, other)]
    found = [model(random_batch(both)) for model in models]
    assert torch.equal(found[0][0], found[1][0]) and not torch.equal(found[0][0], found[2][0])
    for name, loss in found[0][1].losses.items():
        assert torch.equal(loss, found[1][1].losses[name])
        assert torch.equal(loss, found[2][1].losses[name]) == (name == "pointwise"), name
    for loss, _ in found[:2]:
        loss.backward()
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or (two.grad is not None and torch.equal(one.grad, two.grad)), name


def test_a_prediction_is_scored_with_training_weights_and_measured_with_the_others() -> None:
    config = config_of(MEASURED, TRAINED)
    ranker = model_of(config).ranker.eval()
    batch = random_batch(config, answered=0)
    found = predict(ranker.score, [batch], config, torch.device("cpu"))
    torch.testing.assert_close(found.utility_N, batch.outcome_NO @ torch.tensor(MEASURED))
    assert found.logit_NO is not None
    lowest, highest = sum(min(w, 0) for w in TRAINED), sum(max(w, 0) for w in TRAINED)
    for logits, score in zip(found.logit_NO.tolist(), found.served_N.tolist(), strict=True):
        utility = sum(w / (1 + math.exp(-z)) for w, z in zip(TRAINED, logits, strict=True))
        share = (utility - lowest) / (highest - lowest)
        assert score == pytest.approx(math.log(share / (1 - share)), abs=1e-4)


def test_an_amount_has_no_negative_training_weight() -> None:
    with pytest.raises(ValueError, match=r"outcome watch: training_weight=-1.0 is not allowed: 0 or more"):
        Outcome(name="watch", kind="amount", weight=1.0, training_weight=-1.0)
