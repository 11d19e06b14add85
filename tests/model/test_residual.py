"""The score of counts equals a loop over counts, and the network learns what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from easq_rec.config import Config
from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count, FeatureSchema, Outcome
from easq_rec.errors import UserError
from easq_rec.model.floats import FloatEncoder
from easq_rec.model.initial import initialise
from easq_rec.model.ranker import Ranker
from easq_rec.model.residual import CountResidual
from easq_rec.training.optim import parameter_group
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config

COUNTS = (
    Count(name="video_like", outcome="like", keys=("video_id",)),
    Count(name="video_view", outcome="long_view", keys=("video_id",)),
    Count(name="user_view", outcome="long_view", keys=("user_id",), half_life_h=2.0),
    # Not an outcome of the schema: a feature only.
    Count(name="shares", outcome="share", keys=("video_id",)),
)


def counted(config: Config, *, residual: bool = True) -> Config:
    """The config with counts among its features. `follow` has none."""
    model = dataclasses.replace(config.model, residual=residual)
    return dataclasses.replace(config, schema=with_counts(config.schema, COUNTS), model=model)


def by_loop(schema: FeatureSchema, number_NF: Tensor, weight: dict[str, float]) -> list[list[float]]:
    """By candidate and outcome: prior + the sum of weight * (logit of the rate - prior)."""
    places, place = {}, 0
    for feature in schema.floats:
        places[feature.column] = place
        place += feature.numbers
    found = []
    for row in number_NF.tolist():
        scores = []
        for outcome in schema.outcomes:
            counts = [count.name for count in schema.counts if count.outcome == outcome.name]
            score = row[places[counts[0]] + 2] if counts else 0.0
            for name in counts:
                score += weight[name] * (row[places[name]] - row[places[name] + 2])
            scores.append(score)
        found.append(scores)
    return found


def test_the_score_equals_a_loop_over_counts() -> None:
    schema = counted(small_config("main_only")).schema
    residual = CountResidual(schema)
    initialise(residual, seed=0)
    number_NF = torch.randn(7, sum(feature.numbers for feature in schema.floats))
    weight = {"video_like": 0.3, "video_view": -1.5, "user_view": 2.0}
    with torch.no_grad():
        residual.weight_C.copy_(torch.tensor(list(weight.values())))
    torch.testing.assert_close(residual(number_NF), torch.tensor(by_loop(schema, number_NF, weight)))
    assert not residual(number_NF)[:, 2].any(), "follow has no counts"


def heads_of(ranker: Ranker) -> nn.Linear:
    heads = ranker.network.main.heads
    assert heads is not None
    return heads


def test_without_the_network_the_counts_are_the_prediction() -> None:
    """They are read before they are standardised, also under autocast."""
    config = counted(small_config("main_only"))
    model = TrainingModel(config, torch.device("cpu"))
    for ranker in (model.ranker, Ranker(config, torch.device("cpu"), autocast=torch.bfloat16)):
        ranker.network.tokens.candidate_numbers.mean_F += 3.0
        batch = random_batch(config)
        nn.init.zeros_(heads_of(ranker).weight)
        nn.init.zeros_(heads_of(ranker).bias)
        outcomes = ranker.eval().score(batch).outcomes
        assert outcomes is not None
        start = ranker.network.residual
        assert start is not None
        weight = dict(zip(["video_like", "video_view", "user_view"], start.weight_C.tolist(), strict=True))
        expected = torch.tensor(by_loop(config.schema, batch.float_NF, weight))
        torch.testing.assert_close(outcomes.logit_NO, expected[: len(outcomes.logit_NO)])


def test_the_network_adds_to_the_counts() -> None:
    """All other parameters start as they do without the residual, and the logits differ by the score of the counts."""
    config, plain = counted(small_config()), counted(small_config(), residual=False)
    with_it, without = (TrainingModel(one, torch.device("cpu")).ranker for one in (config, plain))
    names = {name for name, _ in with_it.named_parameters()} - {name for name, _ in without.named_parameters()}
    assert names == {"network.residual.weight_C"}
    parameters = dict(with_it.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in without.named_parameters())
    batch = random_batch(config)
    one, other = with_it.eval().score(batch), without.eval().score(batch)
    assert one.outcomes is not None and other.outcomes is not None
    assert with_it.network.residual is not None
    added = with_it.network.residual(batch.float_NF)
    torch.testing.assert_close(one.outcomes.logit_NO, other.outcomes.logit_NO + added)
    assert one.satisfaction_N is not None and other.satisfaction_N is not None
    assert torch.equal(one.satisfaction_N, other.satisfaction_N), "the satisfaction tower reads no score of counts"


def gradient(config: Config, *, outcomes: bool = True) -> Tensor | None:
    """Of the weights, from one batch. Without outcomes, L_main has no pairs."""
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    batch = random_batch(config, requests=8, answered=6)
    model(batch if outcomes else dataclasses.replace(batch, outcome_NO=torch.zeros_like(batch.outcome_NO)))[
        0
    ].backward()
    assert model.ranker.network.residual is not None
    return model.ranker.network.residual.weight_C.grad


def test_losses_of_the_policy_train_the_weights_and_those_of_satisfaction_do_not() -> None:
    config = counted(small_config())
    found = gradient(config)
    assert found is not None and bool(found.all())
    steered = gradient(dataclasses.replace(config, losses=config.losses.weighted(pointwise=0.0)), outcomes=False)
    assert steered is not None and bool(steered.any()), "L_dense trains the policy"
    only = config.losses.weighted(pointwise=0.0, dense=0.0)
    assert {"satisfaction", "evidence", "main"} == set(only.in_force)
    quiet = gradient(dataclasses.replace(config, losses=only), outcomes=False)
    assert quiet is None or not quiet.any()
    assert parameter_group(".ranker.network.residual.weight_C") == "main_tower"


def test_the_tower_equals_its_reference() -> None:
    config = counted(small_config("main_only"))
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    network, batch = model.ranker.network, random_batch(config)
    assert network.residual is not None
    h_ND, added_NO = torch.randn(len(batch.float_NF), config.model.dim), network.residual(batch.float_NF)
    torch.testing.assert_close(network.main(h_ND, None, added_NO).score_N, network.main.reference(h_ND, None, added_NO))


def test_the_prior_is_no_input_of_the_network() -> None:
    features = counted(small_config("main_only")).schema.count_features
    for encoding, width in (("standard", 8), ("quantiles", 8 * 4), ("raw", 8)):
        encoder = FloatEncoder(tuple(dataclasses.replace(one, encoding=encoding) for one in features), quantiles=4)
        assert encoder.width == width
        value_NF = torch.randn(9, 12)
        encoder.fit(value_NF.numpy())
        found = encoder(value_NF)
        assert found.shape == (9, width)
        changed = value_NF.clone()
        changed[:, 2::3] += 7
        assert torch.equal(encoder(changed), found)


AMOUNT = Outcome(name="watch", weight=1.0, kind="amount")


@pytest.mark.parametrize(
    ("counts", "outcomes", "message"),
    [
        ((), (), "model.residual=True is not allowed: False without features that count an outcome of the schema"),
        ((COUNTS[3],), (), "model.residual=True is not allowed: False without features that count an outcome"),
        (
            (*COUNTS, Count(name="watched", outcome="watch")),
            (AMOUNT,),
            r"schema.counts=\['watched'\] is not allowed: none of an outcome of kind amount",
        ),
    ],
)
def test_counts_that_make_no_score_are_refused(counts: Any, outcomes: Any, message: str) -> None:
    config = small_config("main_only")
    schema = dataclasses.replace(config.schema, outcomes=(*config.schema.outcomes, *outcomes))
    model = dataclasses.replace(config.model, residual=True)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, schema=with_counts(schema, counts), model=model)


def test_undeclared_counts_and_a_single_score_are_refused() -> None:
    config = counted(small_config("main_only"))
    with pytest.raises(UserError, match=r"schema.counts=\['video_like'.* is not allowed: declared in \[\[counts\]\]"):
        dataclasses.replace(config, schema=dataclasses.replace(config.schema, counts=()))
    with pytest.raises(UserError, match=r"policy_score='single' is not allowed: 'expected_utility' with model.res"):
        dataclasses.replace(config.model, policy_score="single")
