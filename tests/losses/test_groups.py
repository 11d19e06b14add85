"""Losses that compare the candidates of a user: they never read or move the level of a user, and need no other user.

The objective is computed from given scores, without a network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from easq_rec.config import Config, Losses
from easq_rec.config.losses import DPO, Loss, MainBPR, Reward
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.encode import encode
from easq_rec.data.groups import LIMIT
from easq_rec.data.layout import Layout
from easq_rec.kernels.jagged import Lists
from easq_rec.losses.comparison import Comparison
from easq_rec.losses.objective import Objective
from easq_rec.losses.ranks import OneRank
from easq_rec.losses.term import terms_of
from easq_rec.model.network import NetworkOutput
from easq_rec.model.towers import TowerOutput
from tests.builders import random_answers, random_batch, random_evidence, random_requests, small_config

FORMS: dict[str, Loss] = {
    "main equal": MainBPR(pairs="equal"),
    "main utility": MainBPR(pairs="utility"),
    "listwise": Losses().listwise,
    "dense": Losses().dense,
    "evidence": Losses().evidence,
    "policy_evidence": Losses().policy_evidence,
    "reward bpr": Reward(form="bpr"),
    "reward regression": Reward(form="regression"),
    "dpo": DPO(policy="slate_softmax"),
}
BY_CANDIDATE = ("main utility", "reward bpr", "reward regression")
"""Forms whose sum is divided by the number of candidates, also if they have no pair."""
terms = pytest.mark.parametrize("form", FORMS)


def config_of(form: str, groups: str = "user") -> Config:
    """A config in which only one loss counts. L_main has another weight, because one loss in every step is required."""
    name = form.split()[0]
    losses = dataclasses.replace(Losses(groups=groups), **{name: FORMS[form]})
    off = dict.fromkeys(losses.terms, 0.0) | {"main": 1e-9}
    return dataclasses.replace(small_config(), losses=losses.weighted(**(off | {name: 1.0})))


def loss_of(config: Config, form: str, batch: RequestBatch, score_N: Tensor, reference_N: Tensor) -> tuple[Tensor, int]:
    """(mean of a loss over its comparisons, their number), for given scores of all candidates of a batch."""
    losses, found = config.losses, terms_of(config.losses)
    utility = [outcome.weight for outcome in config.schema.outcomes]
    ranks = OneRank()
    comparison = Comparison(losses, found, utility, ranks)
    objective = Objective(losses, found, slots=config.replay.answers_per_step, ranks=ranks)

    def tower(values: Tensor) -> TowerOutput:
        return TowerOutput(score_N=values, gate_NK=torch.zeros(len(values), 1))

    output = NetworkOutput(
        main=tower(score_N),
        reference=tower(reference_N.detach()),
        answered=tower(reference_N[batch.answered_A]),
        evidence=tower(reference_N[batch.evidence_candidate_E]),
        candidates=Lists(
            offsets_R1=batch.candidate_offsets_R1,
            count=batch.total.requests,
            total=batch.total.candidates,
            longest=batch.max_candidates,
        ),
        embedded=(),
    )
    name = form.split()[0]
    step = objective(output, batch, comparison(batch))
    return step.loss, int(step.pairs["answered" if name == "dpo" else name])


def scores_of(batch: RequestBatch, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(policy, reference) scores, (N,) each."""
    generator = torch.Generator().manual_seed(seed)
    policy_N, reference_N = torch.randn(2, batch.total.candidates, generator=generator)
    return policy_N.requires_grad_(), reference_N.requires_grad_()


def moved_by(form: str, policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """The scores that get the gradient of a loss."""
    return reference_N if form == "evidence" else policy_N


def users_of(batch: RequestBatch) -> Tensor:
    """Number of the user of each candidate, (N,)."""
    _, number_R = np.unique(batch.keys.user_id_R, return_inverse=True)
    return torch.from_numpy(number_R).repeat_interleave(batch.candidate_offsets_R1.diff())


@terms
def test_levels_of_users_are_neither_read_nor_moved(form: str) -> None:
    """A constant per user changes no loss and no gradient. So the gradients of a user's candidates sum to zero."""
    config = config_of(form)
    batch = random_batch(config)
    policy_N, reference_N = scores_of(batch)
    user_N = users_of(batch)
    level_N = torch.tensor([16.0, -8.0, 2.0])[user_N]
    found = []
    for raised in (False, True):
        p_N, r_N = ((x_N + level_N).detach().requires_grad_() if raised else x_N for x_N in (policy_N, reference_N))
        loss, pairs = loss_of(config, form, batch, p_N, r_N)
        (gradient_N,) = torch.autograd.grad(loss, moved_by(form, p_N, r_N))
        found.append((loss.detach(), gradient_N))
    # L_list counts groups, of which there are three.
    assert pairs > 10 or (form == "listwise" and pairs == 3)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    gradient_N = found[0][1]
    assert gradient_N.abs().max() > 1e-3
    per_user = torch.zeros(3).index_add(0, user_N, gradient_N)
    torch.testing.assert_close(per_user, torch.zeros_like(per_user), rtol=0, atol=1e-6)


@terms
def test_a_level_per_request_is_read(form: str) -> None:
    """Otherwise the losses would compare within requests only."""
    config = config_of(form)
    batch = random_batch(config)
    policy_N, reference_N = scores_of(batch)
    request_N = torch.arange(batch.total.requests).repeat_interleave(batch.candidate_offsets_R1.diff())
    level_N = torch.randn(batch.total.requests)[request_N]
    losses = []
    for groups in ("user", "request"):
        config = config_of(form, groups)
        other = batch if groups == "user" else collated_by_request(batch, config)
        before, _ = loss_of(config, form, other, policy_N, reference_N)
        after, _ = loss_of(config, form, other, policy_N + level_N, reference_N + level_N)
        losses.append((float(before.detach()), float(after.detach())))
    assert losses[0][1] != pytest.approx(losses[0][0], rel=1e-4)
    # The weight 1e-9 of L_main, which reads no level either.
    assert losses[1][1] == pytest.approx(losses[1][0], rel=1e-5, abs=1e-6)


def collated_by_request(batch: RequestBatch, config: Config) -> RequestBatch:
    """The same candidates compared by request. Evidence between requests is left out."""
    owner = np.repeat(
        np.arange(batch.stream.requests), np.diff(batch.candidate_offsets_R1[: batch.stream.requests + 1])
    )
    evidence = batch.evidence_candidate_E.numpy()
    order = np.argsort(evidence, kind="stable")
    counts = np.bincount(owner[evidence], minlength=batch.stream.requests)
    return dataclasses.replace(
        batch,
        groups=None,
        slates=None,
        evidence_candidate_E=batch.evidence_candidate_E[order],
        evidence_E=batch.evidence_E[order],
        evidence_offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        max_evidence=int(counts.max()),
    )


@terms
def test_gradients_equal_finite_differences(form: str) -> None:
    config = config_of(form)
    batch = random_batch(config, requests=3, answered=3)
    policy_N, reference_N = scores_of(batch)
    moved = moved_by(form, policy_N, reference_N)

    def loss(values_N: Tensor) -> Tensor:
        p_N, r_N = (policy_N, values_N) if form == "evidence" else (values_N, reference_N)
        return loss_of(config, form, batch, p_N, r_N)[0]

    (gradient_N,) = torch.autograd.grad(loss(moved), moved)
    step_NN = 1e-2 * torch.eye(batch.total.candidates)
    differences = [float((loss(moved + step_N) - loss(moved - step_N)).detach()) / 2e-2 for step_N in step_NN]
    torch.testing.assert_close(gradient_N, torch.tensor(differences), rtol=1e-3, atol=5e-5)
    assert gradient_N.abs().max() > 5e-3


def feed(config: Config, users: Sequence[int], lengths: Sequence[int], *, answered: bool = True) -> RequestBatch:
    """Requests with these users and numbers of candidates, the first two of which are also answered."""
    rng = np.random.default_rng(0)
    layout, by_user = Layout.of(config.schema), config.losses.groups == "user"
    stream = encode(layout, random_requests(config.schema, rng, [1] * len(users), lengths, users))
    answers = None
    if answered:
        replayed = encode(layout, random_requests(config.schema, rng, [1] * 2, [1] * 2, [1, 2]))
        answers = random_answers(replayed, rng)
    weight_O = random_evidence(config.schema)
    return collate(config.schema, stream, answers, evidence_O=weight_O, reward_O=weight_O, by_user=by_user)


@terms
def test_requests_of_one_candidate_teach_through_their_user(form: str) -> None:
    """In a feed of one video per request every loss has gradients with groups of users, and none without."""
    moved = {}
    for groups in ("user", "request"):
        config = config_of(form, groups)
        batch = feed(config, [1, 2, 1, 2, 1, 2, 2, 1], [1] * 8)
        policy_N, reference_N = scores_of(batch)
        loss, pairs = loss_of(config, form, batch, policy_N, reference_N)
        (gradient_N,) = torch.autograd.grad(loss, moved_by(form, policy_N, reference_N))
        moved[groups] = bool((gradient_N.abs() > 1e-6).any())
        assert gradient_N.isfinite().all()
        assert form == "dpo" or groups == "user" or form in BY_CANDIDATE or pairs == 0
    assert moved == {"user": True, "request": False}


@terms
def test_users_with_one_request_have_the_loss_of_their_requests(form: str) -> None:
    losses = []
    for groups in ("user", "request"):
        config = config_of(form, groups)
        batch = feed(config, [5, 3, 9], [4, 2, 6], answered=False)
        policy_N, reference_N = scores_of(batch)
        loss, pairs = loss_of(config, form, batch, policy_N, reference_N)
        (gradient_N,) = torch.autograd.grad(loss, moved_by(form, policy_N, reference_N), materialize_grads=True)
        losses.append((loss.detach(), gradient_N))
        assert pairs or form == "dpo"
    torch.testing.assert_close(losses[0], losses[1])


@terms
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [1, 0]])
def test_a_batch_without_pairs_has_zero_gradients(form: str, lengths: list[int]) -> None:
    """The loss stays a function of the scores, so that the rank takes part in every exchange of gradients."""
    config = config_of(form)
    users = [1] * len(lengths)
    if lengths:
        batch = feed(config, users, lengths, answered=False)
    else:
        whole = encode(
            Layout.of(config.schema), random_requests(config.schema, np.random.default_rng(0), [1], [1], [1])
        )
        nothing = whole.take(np.zeros(0, np.int64))
        batch = collate(config.schema, nothing, reward_O=random_evidence(config.schema), by_user=True)
    policy_N, reference_N = scores_of(batch)
    loss, _ = loss_of(config, form, batch, policy_N, reference_N)
    assert loss.requires_grad and float(loss.detach()) == 0
    for gradient_N in torch.autograd.grad(loss, [policy_N, reference_N], materialize_grads=True):
        assert gradient_N.tolist() == [0.0] * batch.total.candidates


def test_a_user_with_many_requests_is_compared_in_parts() -> None:
    """The tensor of pairs stays small: a user with 200 requests has parts of `LIMIT` candidates."""
    config = config_of("dense")
    batch = feed(config, [1] * 200, [1] * 200)
    policy_N, reference_N = scores_of(batch)
    _, pairs = loss_of(config, "dense", batch, policy_N, reference_N)
    sizes = [LIMIT] * (200 // LIMIT) + [200 % LIMIT]
    assert pairs == sum(size * (size - 1) // 2 for size in sizes)


def test_a_batch_of_other_groups_is_refused() -> None:
    config = config_of("dense")
    batch = feed(config_of("dense", "request"), [1, 1], [1, 1])
    with pytest.raises(AssertionError, match=r"collated for another losses\.groups"):
        loss_of(config, "dense", batch, *scores_of(batch))
