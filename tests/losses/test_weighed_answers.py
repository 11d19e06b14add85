"""L_satis with weights of answers: pairs weigh the product of the weights, and the loss is divided by their sum."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.losses.answered import answered_pairs
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, small_config


def nll(margin: Tensor) -> Tensor:
    """-log sigmoid, computed from the definition."""
    return -(1 / (1 + (-margin).exp())).log()


WEIGHED = st.lists(st.tuples(st.floats(-4, 4), st.sampled_from([0, 1, 2]), st.floats(0.1, 10)), max_size=9)
"""Answers, each (value, label, weight)."""


@given(answers=WEIGHED, cut=st.integers(0, 9), spare=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_weighed_pairs_equal_a_loop_over_all_answers(
    answers: list[tuple[float, int, float]], cut: int, spare: int
) -> None:
    """Values, sums of weights and gradients are equal on two ranks. Unused slots are not answers."""
    shares = [answers[:cut], answers[cut:]]
    slots = max(len(share) for share in shares) + spare
    value_B, weight_B = torch.full((2, 2, slots), float(NO_ANSWER), dtype=torch.float64)
    label_B = torch.full((2, slots), NO_ANSWER)
    for rank, share in enumerate(shares):
        for place, (value, label, weight) in enumerate(share):
            value_B[rank, place], label_B[rank, place], weight_B[rank, place] = value, label, weight
    values = torch.tensor([value for value, *_ in answers], dtype=torch.float64, requires_grad=True)
    expected, weights = (values * 0).sum(), 0.0
    for (i, one), (j, two) in itertools.permutations(enumerate(answers), 2):
        if one[1] > two[1]:
            expected = expected + one[2] * two[2] * nll(values[i] - values[j])
            weights += one[2] * two[2]
    total, gradients = torch.zeros((), dtype=torch.float64), []
    for rank, share in enumerate(shares):
        value_A = value_B[rank, : len(share)].clone().requires_grad_()
        part, found = answered_pairs(
            value_A,
            label_B[rank, : len(share)],
            value_B.flatten(),
            label_B.flatten(),
            (weight_B[rank, : len(share)], weight_B.flatten()),
        )
        assert float(found) == pytest.approx(weights)
        total = total + part.detach()
        gradients.append(torch.autograd.grad(part, value_A)[0])
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(torch.cat(gradients), torch.autograd.grad(expected, values)[0])


def test_the_objective_divides_weighed_pairs_by_their_weights() -> None:
    """The sum of weights may be below 1. L_DPO compares the same answers, and weighs them alike."""
    config = small_config("ips_answers")
    config = dataclasses.replace(config, losses=config.losses.weighted(dpo=1.0))
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    batch = random_batch(config)
    weight_A = batch.answer_weight_A
    assert weight_A is not None
    found = [model(dataclasses.replace(batch, answer_weight_A=scale * weight_A))[1] for scale in (1.0, 1e-3)]
    reference = found[0].network.reference
    assert reference is not None
    score_A, label = reference.score_N[batch.answered_A], batch.answer_A.tolist()
    total = weights = torch.zeros(())
    pairs = [(i, j) for i, j in itertools.permutations(range(len(label)), 2) if label[i] > label[j]]
    for i, j in pairs:
        total = total + weight_A[i] * weight_A[j] * nll(score_A[i] - score_A[j])
        weights = weights + weight_A[i] * weight_A[j]
    for output in found:
        torch.testing.assert_close(output.losses["satisfaction"], total / weights, rtol=1e-5, atol=1e-6)
        assert int(output.pairs["answered"]) == len(pairs) > 4
    equal = dataclasses.replace(config.losses, satisfaction=small_config().losses.satisfaction)
    plain_model = TrainingModel(dataclasses.replace(config, losses=equal), torch.device("cpu"))
    excite(plain_model)
    # Without weights, a batch may have some. Nothing reads them, bit for bit.
    plain, other = (plain_model(one)[1] for one in (batch, dataclasses.replace(batch, answer_weight_A=None)))
    assert torch.equal(plain.loss, other.loss)
    assert torch.equal(plain.losses["dpo"], found[0].losses["dpo"])
    assert not torch.allclose(plain.losses["satisfaction"], found[0].losses["satisfaction"])
    same = model(dataclasses.replace(batch, answer_weight_A=torch.ones_like(weight_A)))[1]
    torch.testing.assert_close(same.losses["satisfaction"], plain.losses["satisfaction"])


def test_a_batch_without_answers_has_no_weights() -> None:
    """The loss is zero and stays in the graph. Answers without weights are an error of the program."""
    config = small_config("ips_answers")
    model = TrainingModel(config, torch.device("cpu"))
    silent = random_batch(config, answered=0)
    assert silent.answer_weight_A is None
    loss, output = model(silent)
    assert float(output.losses["satisfaction"]) == 0 and int(output.pairs["answered"]) == 0
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    with pytest.raises(AssertionError, match="losses weigh answers, but the batch has no weights"):
        model(dataclasses.replace(random_batch(config), answer_weight_A=None))
