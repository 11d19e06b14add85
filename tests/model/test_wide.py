"""The wide path equals a loop over pairs of features, adds to the main tower, and is trained as the main tower is."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from easq_rec.config import Config
from easq_rec.config.counts import with_counts
from easq_rec.config.schema import Count
from easq_rec.kernels.jagged import Lists
from easq_rec.model.initial import initialise
from easq_rec.model.ranker import Ranker
from easq_rec.model.wide import WidePath
from easq_rec.training.optim import parameter_group
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config


def wide(config: Config) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, wide=True))


def lists(lengths: list[int]) -> Lists:
    offsets_R1 = torch.tensor([0, *lengths]).cumsum(0)
    return Lists(offsets_R1=offsets_R1, count=len(lengths), total=sum(lengths), longest=max(lengths))


@pytest.mark.parametrize("floats", [0, 3])
def test_it_equals_a_loop_over_pairs_gradients_included(floats: int) -> None:
    """Also with fields of other widths, without floats, and for requests without candidates."""
    schema = small_config("main_only").schema
    path = WidePath(schema, numbers=(floats, 5), outputs=2)
    initialise(path, seed=0)
    with torch.no_grad():
        path.pair_OE.normal_()
    candidates = lists([3, 0, 1, 4])
    user_RM = torch.randn(4, path.user.inputs, requires_grad=True)
    candidate_NC = torch.randn(8, path.candidate.inputs, requires_grad=True)
    tensors = [user_RM, candidate_NC, *path.parameters()]
    weight_NO = torch.randn(8, 2)
    fast_NO, slow_NO = (form(user_RM, candidate_NC, candidates) for form in (path.forward, path.reference))
    torch.testing.assert_close(fast_NO, slow_NO)
    fast, slow = (torch.autograd.grad((out_NO * weight_NO).sum(), tensors) for out_NO in (fast_NO, slow_NO))
    torch.testing.assert_close(fast, slow)
    assert all(bool(gradient.any()) for gradient in fast)


def test_pairs_of_one_feature_with_itself_do_not_count() -> None:
    """With a single field on each side, the output is linear in each of them."""
    schema = small_config("main_only").schema
    path = WidePath(schema, numbers=(0, 0), outputs=1)
    initialise(path, seed=0)
    with torch.no_grad():
        path.linear.weight.zero_()
    user_RM, candidate_NC = torch.randn(1, path.user.inputs), torch.randn(1, path.candidate.inputs)
    width = path.width
    user_RM[:, width:], candidate_NC[:, width:] = 0, 0
    expected = float((user_RM[:, :width] * candidate_NC[:, :width]).sum())
    assert path(user_RM, candidate_NC, lists([1])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("score", ["expected_utility", "single"])
def test_it_adds_to_the_outputs_of_the_main_tower(score: str) -> None:
    """All other parameters start as they do without it, and no other output changes."""
    plain = small_config()
    losses = plain.losses if score == "expected_utility" else plain.losses.weighted(pointwise=0.0, main=1.0)
    plain = dataclasses.replace(plain, losses=losses, model=dataclasses.replace(plain.model, policy_score=score))
    with_it, without = (TrainingModel(config, torch.device("cpu")).ranker.eval() for config in (wide(plain), plain))
    parameters = dict(with_it.named_parameters())
    new = parameters.keys() - dict(without.named_parameters()).keys()
    assert new and all(name.startswith("network.wide.") for name in new)
    assert all(torch.equal(parameters[name], value) for name, value in without.named_parameters())
    batch = random_batch(plain)
    one, other = with_it.score(batch), without.score(batch)
    path, network = with_it.network.wide, with_it.network
    assert path is not None
    part = network._whole(*with_it.embeddings(batch), batch)
    added_NO = path(part.embedded.user_RM, part.embedded.candidate_NF, part.candidates)
    assert added_NO.std() > 0
    if score == "single":
        torch.testing.assert_close(one.main_N, other.main_N + added_NO.squeeze(1))
    else:
        assert one.outcomes is not None and other.outcomes is not None
        torch.testing.assert_close(one.outcomes.logit_NO, other.outcomes.logit_NO + added_NO)
    assert one.satisfaction_N is not None and other.satisfaction_N is not None
    assert torch.equal(one.satisfaction_N, other.satisfaction_N), "the satisfaction tower does not read the wide path"


def test_it_reads_counts_as_numbers_of_the_candidate() -> None:
    config = wide(small_config("main_only"))
    count = Count(name="video_view", outcome="long_view", keys=("video_id",))
    counted = dataclasses.replace(config, schema=with_counts(config.schema, (count,)))
    widths = []
    for one in (config, counted):
        path = Ranker(one, torch.device("cpu")).network.wide
        assert path is not None
        widths.append(path.candidate.inputs)
    assert widths[1] == widths[0] + 2, "the logit of the rate and the logarithm of the impressions"


def test_all_losses_of_the_policy_train_it_and_those_of_satisfaction_do_not() -> None:
    """Its row of the gradient contract is that of the main tower."""
    config = wide(small_config())
    for weights, trained in (
        ({"dense": 0.0}, True),
        ({"pointwise": 0.0}, True),
        ({"pointwise": 0.0, "dense": 0.0}, False),
    ):
        losses = config.losses.weighted(**weights)
        model = TrainingModel(dataclasses.replace(config, losses=losses), torch.device("cpu"))
        excite(model)
        batch = random_batch(config, requests=8, answered=6)
        if "pointwise" in weights:
            batch = dataclasses.replace(batch, outcome_NO=torch.zeros_like(batch.outcome_NO))
        model(batch)[0].backward()
        path = model.ranker.network.wide
        assert path is not None
        gradients = {name: value.grad for name, value in path.named_parameters()}
        moved = {name for name, value in gradients.items() if value is not None and value.any()}
        assert moved == (set(gradients) if trained else set()), weights
    assert parameter_group("ranker.network.wide.pair_OE") == "main_tower"
