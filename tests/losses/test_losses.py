"""Every loss and policy form equals values calculated by hand and loops over requests and pairs.

The random tests of single losses use float64. A loss is a sum over pairs. The objective normalises it over the ranks,
which tests/distributed checks as well.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.config import Losses
from easq_rec.config.answer_scale import NO_ANSWER, THREE_ANSWERS
from easq_rec.config.losses import DPO, Among, Dense, MainBPR, Pointwise, Reward
from easq_rec.data.batch import RequestBatch
from easq_rec.losses.answered import answered_pairs
from easq_rec.losses.dense import dense_preference, half_preference
from easq_rec.losses.dpo import log_policy
from easq_rec.losses.evidence import evidence_likelihood
from easq_rec.losses.main_bpr import bpr
from easq_rec.losses.pairs import better_pairs, margins, positive_differences, real_pairs
from easq_rec.losses.reward import centred_squares
from easq_rec.training.training_model import TrainingModel
from tests.builders import excite, random_batch, random_evidence, small_config

REQUESTS = st.lists(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0.0, 0.5, 1.0])), max_size=5)
)
"""Lists of candidates, each (score, reference, utility); ties of utility are common."""
ANSWERS = st.lists(st.tuples(st.floats(-4, 4), st.sampled_from([0, 1, 2])), max_size=9)
FORMS = ("score_difference", "slate_softmax", "bernoulli")


def nll(margin: Tensor) -> Tensor:
    """-log sigmoid, computed from the definition."""
    return -(1 / (1 + (-margin).exp())).log()


def padded(requests: list[list[tuple[float, float, float]]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(score, reference, utility, mask), each (R, C), with large values in the padding."""
    longest = max((len(request) for request in requests), default=0) + 1
    columns = torch.full((3, len(requests), longest), 99.0, dtype=torch.float64)
    mask_RC = torch.zeros(len(requests), longest, dtype=torch.bool)
    for r, request in enumerate(requests):
        for c, candidate in enumerate(request):
            columns[:, r, c] = torch.tensor(candidate, dtype=torch.float64)
            mask_RC[r, c] = True
    return columns[0].requires_grad_(), columns[1].requires_grad_(), columns[2], mask_RC


def assert_same(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Checks that the values and the gradients are equal."""
    torch.testing.assert_close(found, expected)
    for x in inputs:
        gradients = torch.autograd.grad(found, x, retain_graph=True)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, x, retain_graph=True))


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_bpr_equals_a_loop_over_pairs_of_a_request(requests: list[list[tuple[float, float, float]]]) -> None:
    score_RC, _, utility_RC, mask_RC = padded(requests)
    better_RCC = better_pairs(utility_RC, real_pairs(mask_RC))
    found, pairs = bpr(margins(score_RC), better_RCC), better_RCC.sum()
    expected, count = (score_RC * 0).sum(), 0
    for r, request in enumerate(requests):
        for i, j in itertools.permutations(range(len(request)), 2):
            if request[i][2] > request[j][2]:
                expected, count = expected + nll(score_RC[r, i] - score_RC[r, j]), count + 1
    assert int(pairs) == count
    assert_same(found, expected, score_RC)


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_dense_preference_equals_a_loop_over_unordered_pairs(requests: list[list[tuple[float, float, float]]]) -> None:
    """The soft labels come from the reference, which gets no gradient."""
    score_RC, reference_RC, _, mask_RC = padded(requests)
    real_RCC = real_pairs(mask_RC)
    found, pairs = dense_preference(margins(score_RC), real_RCC, reference_RC), real_RCC.sum() // 2
    expected, count = (score_RC * 0).sum(), 0
    for r, request in enumerate(requests):
        for i, j in itertools.combinations(range(len(request)), 2):
            target = 1 / (1 + math.exp(request[j][1] - request[i][1]))
            margin = score_RC[r, i] - score_RC[r, j]
            expected, count = expected + target * nll(margin) + (1 - target) * nll(-margin), count + 1
    assert int(pairs) == count
    assert_same(found, expected, score_RC)
    assert torch.autograd.grad(found, reference_RC, allow_unused=True) == (None,)


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_half_preference_equals_a_loop_over_unordered_pairs(requests: list[list[tuple[float, float, float]]]) -> None:
    score_RC, _, _, mask_RC = padded(requests)
    found, expected = half_preference(margins(score_RC), real_pairs(mask_RC)), (score_RC * 0).sum()
    for r, request in enumerate(requests):
        for i, j in itertools.combinations(range(len(request)), 2):
            margin = score_RC[r, i] - score_RC[r, j]
            expected = expected + (nll(margin) + nll(-margin)) / 2
    assert_same(found, expected, score_RC)


def test_half_targets_do_not_read_the_reference() -> None:
    """L_dense equals its loop whatever the reference, and its gradient pulls the scores of a request together."""
    config = small_config("half_targets")
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    batch = random_batch(config)
    output = model(batch)[1]
    score_N, expected = output.network.main.score_N.detach(), []
    for start, end in itertools.pairwise(batch.candidate_offsets_R1.tolist()[: batch.stream.requests + 1]):
        for i, j in itertools.combinations(range(start, end), 2):
            expected.append((nll(score_N[i] - score_N[j]) + nll(score_N[j] - score_N[i])) / 2)
    torch.testing.assert_close(output.losses["dense"], torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)
    score_RC = torch.tensor([[1.0, 0.0, -2.0]], requires_grad=True)
    loss = half_preference(margins(score_RC), real_pairs(torch.ones(1, 3, dtype=torch.bool)))
    (gradient_RC,) = torch.autograd.grad(loss, score_RC)
    assert float(gradient_RC[0, 0]) > 0 > float(gradient_RC[0, 2])


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_evidence_loss_is_the_likelihood_of_the_evidence(requests: list[list[tuple[float, float, float]]]) -> None:
    """One candidate of a pair is the satisfying one, but it is not known which. Both have evidence.

    The likelihood is the mean over the two cases, weighted by their probability.
    """
    score_RC, _, evidence_RC, mask_RC = padded(requests)
    evidence_RCC = positive_differences(evidence_RC, mask_RC)
    found, pairs = evidence_likelihood(score_RC, evidence_RCC), (evidence_RCC > 0).sum()
    expected, count = (score_RC * 0).sum(), 0
    for r, request in enumerate(requests):
        for i, j in itertools.permutations(range(len(request)), 2):
            if request[i][2] > request[j][2]:
                first = (score_RC[r, i] - score_RC[r, j]).sigmoid()
                likelihood = first * math.exp(request[i][2] - request[j][2]) + (1 - first)
                expected, count = expected - likelihood.log(), count + 1
    assert int(pairs) == count
    assert_same(found, expected, score_RC)


@given(REQUESTS)
@settings(max_examples=60, deadline=None)
def test_centred_squares_equal_loops_over_candidates_and_over_pairs(
    requests: list[list[tuple[float, float, float]]],
) -> None:
    """The two loops are two ways to write the loss."""
    score_RC, _, reward_RC, mask_RC = padded(requests)
    found = centred_squares(score_RC, reward_RC, mask_RC)
    expected, pairwise = (score_RC * 0).sum(), (score_RC * 0).sum()
    for r, request in enumerate(requests):
        error = [score_RC[r, c] - request[c][2] for c in range(len(request))]
        for i in range(len(request)):
            expected = expected + (error[i] - sum(error) / len(request)) ** 2
        for i, j in itertools.combinations(range(len(request)), 2):
            pairwise = pairwise + (error[i] - error[j]) ** 2 / len(request)
    assert_same(found, expected, score_RC)
    assert_same(found, pairwise, score_RC)


def test_evidence_moves_uncertain_pairs_most() -> None:
    """The gradient of a pair is sigmoid(d) - sigmoid(d + e). It is small if the scores differ much."""
    score_RC = torch.tensor([[0.0, 0.0], [5.0, 0.0], [-5.0, 0.0]], requires_grad=True)
    evidence_RC, mask_RC = torch.tensor([[1.0, 0.0]] * 3), torch.ones(3, 2, dtype=torch.bool)
    total = evidence_likelihood(score_RC, positive_differences(evidence_RC, mask_RC))
    (gradient_RC,) = torch.autograd.grad(total, score_RC)
    expected = [1 / (1 + math.exp(-d)) - 1 / (1 + math.exp(-d - 1)) for d in (0, 5, -5)]
    assert gradient_RC[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert min(expected) == expected[0] < 0


def test_losses_by_hand() -> None:
    """The candidates have scores 2, 1, 0 and utilities 0, 1, 0. So two pairs count: 1 over 2, and 1 over 0."""
    score_RC = torch.tensor([[2.0, 1.0, 0.0]])
    real_RCC = real_pairs(torch.ones(1, 3, dtype=torch.bool))
    better_RCC = better_pairs(torch.tensor([[0.0, 1.0, 0.0]]), real_RCC)
    assert int(better_RCC.sum()) == 2
    total = bpr(margins(score_RC), better_RCC)
    assert float(total) == pytest.approx(math.log(1 + math.e) + math.log(1 + 1 / math.e))
    # A constant reference pulls every difference to zero: -log sigmoid(d)/2 - log sigmoid(-d)/2 for d = 1, 2, 1.
    assert int(real_RCC.sum()) == 2 * 3
    total = dense_preference(margins(score_RC), real_RCC, torch.zeros(1, 3))
    assert float(total) == pytest.approx(sum(0.5 * math.log(2 + 2 * math.cosh(d)) for d in (1, 2, 1)))
    # The gradient is zero if the reference equals the score.
    score_RC.requires_grad_()
    (gradient,) = torch.autograd.grad(dense_preference(margins(score_RC), real_RCC, score_RC), score_RC)
    torch.testing.assert_close(gradient, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("score_difference", [2.0, 0.0]),
        ("slate_softmax", [-math.log(1 + math.exp(-2)), -math.log(1 + math.exp(2))]),
        ("bernoulli", [-math.log(1 + math.exp(-2)), -math.log(2)]),
    ],
)
def test_log_policy_by_hand(form: str, expected: list[float]) -> None:
    """A request has two candidates with scores 2 and 0. The third position is padding."""
    mask_RC = torch.tensor([[True, True, False]])
    found = log_policy(torch.tensor([[2.0, 0.0, 50.0]]), mask_RC, form)
    assert found[0, :2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_log_policy_has_finite_gradients(form: str) -> None:
    """Gradients are finite also for a request without candidates and for very large scores."""
    score_RC = torch.tensor([[500.0, -500.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    mask_RC = torch.tensor([[True, True, False], [False, False, False]])
    log_policy(score_RC, mask_RC, form)[mask_RC].sum().backward()
    assert score_RC.grad.isfinite().all()
    assert not score_RC.grad[~mask_RC].any()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="plackett"):
        log_policy(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), "plackett")


@pytest.mark.parametrize(
    ("form", "blind"), [("slate_softmax", True), ("score_difference", False), ("bernoulli", False)]
)
def test_only_slate_softmax_ignores_an_offset_of_a_request(form: str, blind: bool) -> None:
    """In the other forms, offsets of users can satisfy pairs across users. L_main does not constrain the offsets."""
    score_RC = torch.randn(3, 4, dtype=torch.float64)
    mask_RC = torch.tensor([4, 2, 3])[:, None] > torch.arange(4)
    offset_R1 = torch.tensor([[5.0], [-3.0], [0.0]], dtype=torch.float64)
    before, after = (log_policy(s, mask_RC, form)[mask_RC] for s in (score_RC, score_RC + offset_R1))
    assert torch.allclose(before, after) == blind


def naive_answered(value: Tensor, label: list[int]) -> tuple[Tensor, int]:
    """The sum over all ordered pairs of answers, and their number."""
    total, count = (value * 0).sum(), 0
    for i, j in itertools.permutations(range(len(label)), 2):
        if label[i] > label[j]:
            total, count = total + nll(value[i] - value[j]), count + 1
    return total, count


@given(answers=ANSWERS, cuts=st.tuples(st.integers(0, 9), st.integers(0, 9)), spare=st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_the_sum_over_three_ranks_equals_a_loop_over_all_answers(
    answers: list[tuple[float, int]], cuts: tuple[int, int], spare: int
) -> None:
    """Values, pair counts and gradients are equal. Ranks may have no answers, and unused slots are not answers."""
    first, second = sorted(min(cut, len(answers)) for cut in cuts)
    shares = [answers[:first], answers[first:second], answers[second:]]
    slots = max(len(share) for share in shares) + spare
    value_B = torch.full((3, slots), 7.0, dtype=torch.float64)
    label_B = torch.full((3, slots), NO_ANSWER)
    values = []
    for rank, share in enumerate(shares):
        values.append(torch.tensor([value for value, _ in share], dtype=torch.float64, requires_grad=True))
        value_B[rank, : len(share)] = values[-1].detach()
        label_B[rank, : len(share)] = torch.tensor([label for _, label in share], dtype=torch.int64)
    label = [label for _, label in answers]
    value = torch.tensor([value for value, _ in answers], dtype=torch.float64, requires_grad=True)
    expected, count = naive_answered(value, label)
    (gradient,) = torch.autograd.grad(expected, value)
    total = torch.zeros((), dtype=torch.float64)
    found = []
    for rank, share in enumerate(shares):
        own = torch.tensor([label for _, label in share], dtype=torch.int64)
        part, pairs = answered_pairs(values[rank], own, value_B.flatten(), label_B.flatten())
        assert int(pairs) == count
        total = total + part.detach()
        found.append(torch.autograd.grad(part, values[rank])[0])
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(torch.cat(found), gradient)


def test_gathered_values_are_constants() -> None:
    """Gathered values are constants, even if the gathered tensor is the tensor of this rank.

    Each rank differentiates its answers once.
    """
    value = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    label_A = torch.tensor([0, 2, 2, 0])
    found, _ = answered_pairs(value, label_A, value, label_A)
    assert_same(found, naive_answered(value, label_A.tolist())[0], value)


@pytest.mark.parametrize("label", [[], [2], [2, 2, 2], [0, 0]])
def test_a_loss_without_pairs_is_zero_with_zero_gradients(label: list[int]) -> None:
    """The loss stays part of the graph, so that its parameters have gradients on every rank."""
    value_A = torch.randn(len(label), requires_grad=True)
    label_A = torch.tensor(label, dtype=torch.int64)
    total, pairs = answered_pairs(value_A, label_A, value_A, label_A)
    assert float(total.detach()) == 0 and int(pairs) == 0
    (gradient,) = torch.autograd.grad(total, value_A)
    assert gradient.tolist() == [0.0] * len(label)


def test_uncertain_ranks_between_satisfied_and_dissatisfied() -> None:
    """One answer of each kind gives three pairs.

    They are satisfied over uncertain, uncertain over dissatisfied, and satisfied over dissatisfied.
    """
    value_A, label_A = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0, 1, 2])
    total, pairs = answered_pairs(value_A, label_A, value_A, label_A)
    assert int(pairs) == 3
    assert float(total) == pytest.approx(sum(math.log(1 + math.exp(-d)) for d in (1, 2, 3)))
    assert THREE_ANSWERS.ranked(between=True) == (0, 1, 2)
    assert THREE_ANSWERS.ranked(between=False) == (0, 2)


def lists_by_user(batch: RequestBatch, requests: Sequence[int]) -> list[list[int]]:
    """Positions of the candidates of each user in some requests of a batch."""
    ends, users = batch.candidate_offsets_R1.tolist(), batch.keys.user_id_R.tolist()
    found: dict[int, list[int]] = {}
    for request in requests:
        found.setdefault(users[request], []).extend(range(ends[request], ends[request + 1]))
    return list(found.values())


@pytest.mark.parametrize("groups", ["request", "user"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal pairs", "pairs by utility"])
@pytest.mark.parametrize("policy", FORMS)
def test_the_objective_equals_loops(policy: str, weighted: bool, groups: str) -> None:
    """Every part of the loss of a batch equals a loop over the scores of the network."""
    config = small_config()
    weights = Losses(
        main=MainBPR(pairs="utility" if weighted else "equal"),
        dpo=DPO(policy=policy, beta=0.3),
        dense=Dense(temperature=2.0),
        groups=groups,
    ).weighted(pointwise=0.6, satisfaction=0.7, evidence=0.9, dpo=2.0, dense=0.4, listwise=0.3, policy_evidence=0.2)
    config = dataclasses.replace(config, losses=weights)
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    batch = random_batch(config)
    loss, output = model(batch)
    assert output.network.reference is not None and output.network.answered is not None
    score_N, reference_N = output.network.main.score_N.detach(), output.network.reference.score_N
    slices = [list(range(*ends)) for ends in itertools.pairwise(batch.candidate_offsets_R1.tolist())]
    compared, slates = slices[: batch.stream.requests], slices
    if groups == "user":
        compared = lists_by_user(batch, range(batch.stream.requests))
        stream, ids = batch.stream.requests, batch.keys.request_id_R.tolist()
        # Some requests of the stream are also replayed, and count once.
        once = [row for row in range(batch.total.requests) if row >= stream or ids[row] not in ids[stream:]]
        assert stream < len(once) < batch.total.requests
        slates = lists_by_user(batch, once)
        assert len(compared) == len(slates) == 3
    utility_N = batch.outcome_NO @ torch.tensor([outcome.weight for outcome in config.schema.outcomes])
    weight_O = torch.from_numpy(random_evidence(config.schema))
    evidence_N = (batch.outcome_NO > 0).float() @ weight_O
    trigger_N = batch.outcome_NO[:, 0] > 0
    main, dense, evidence, policy_evidence, listwise = [], [], [], [], []
    for group in compared:
        if len(set(utility_N[group].tolist())) > 1:
            listwise.append(-(utility_N[group].softmax(0) * score_N[group].log_softmax(0)).sum())
        for i, j in itertools.permutations(group, 2):
            if utility_N[i] > utility_N[j]:
                gain = utility_N[i] - utility_N[j] if weighted else 1.0
                main.append(gain * nll(score_N[i] - score_N[j]))
            if trigger_N[i] and trigger_N[j] and evidence_N[i] > evidence_N[j]:
                e = evidence_N[i] - evidence_N[j]
                for value_N, losses in ((reference_N, evidence), (score_N, policy_evidence)):
                    d = value_N[i] - value_N[j]
                    losses.append(nll(-d) - nll(-d - e))
        for i, j in itertools.combinations(group, 2):
            target, margin = ((reference_N[i] - reference_N[j]) / 2).sigmoid(), score_N[i] - score_N[j]
            dense.append(target * nll(margin) + (1 - target) * nll(-margin))

    def naive_log_policy(value_N: Tensor, at: int) -> Tensor:
        slate = next(slate for slate in slates if at in slate)
        match policy:
            case "slate_softmax":
                return value_N[at] - value_N[slate].exp().sum().log()
            case "bernoulli":
                return -nll(value_N[at])
        return value_N[at]

    margin_A = torch.stack(
        [0.3 * (naive_log_policy(score_N, a) - naive_log_policy(reference_N, a)) for a in batch.answered_A.tolist()]
    )
    label = batch.answer_A.tolist()
    satisfaction, pairs = naive_answered(reference_N[batch.answered_A], label)
    dpo, _ = naive_answered(margin_A, label)
    assert pairs > 4
    stream = batch.stream.candidates
    predicted = output.network.main.outcomes
    assert predicted is not None
    probability_NO = predicted.logit_NO.detach()[:stream].sigmoid()
    pointwise = F.binary_cross_entropy(probability_NO, batch.outcome_NO[:stream], reduction="sum")
    expected = {
        "pointwise": pointwise / stream,
        "main": torch.stack(main).sum() / (stream if weighted else len(main)),
        "dense": torch.stack(dense).mean(),
        "evidence": torch.stack(evidence).mean(),
        "policy_evidence": torch.stack(policy_evidence).mean(),
        "listwise": torch.stack(listwise).mean(),
        "satisfaction": satisfaction / pairs,
        "dpo": dpo / pairs,
    }
    for name, value in expected.items():
        torch.testing.assert_close(output.losses[name], value, rtol=1e-5, atol=1e-6, msg=name)
    whole = (
        0.6 * expected["pointwise"]
        + expected["main"]
        + 0.7 * expected["satisfaction"]
        + 2.0 * expected["dpo"]
        + 0.4 * expected["dense"]
    )
    whole = whole + 0.9 * expected["evidence"] + 0.3 * expected["listwise"] + 0.2 * expected["policy_evidence"]
    torch.testing.assert_close(loss.detach(), whole, rtol=1e-5, atol=1e-6)
    # L_DPO and L_dense have no effect during the warm-up.
    torch.testing.assert_close(
        model(batch, steered=False)[0].detach(),
        whole - 2.0 * expected["dpo"] - 0.4 * expected["dense"],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("groups", ["request", "user"])
@pytest.mark.parametrize("among", ["all", "triggered"])
@pytest.mark.parametrize("form", ["bpr", "regression"])
def test_the_loss_of_rewards_equals_loops(form: str, among: Among, groups: str) -> None:
    """Of a batch, over the candidates of a group that count. A reward is the sum of the weights of what happened."""
    config = small_config("reward_model")
    reward = Reward(weight=0.7, form=form, among=among)
    config = dataclasses.replace(config, losses=dataclasses.replace(config.losses, reward=reward, groups=groups))
    model = TrainingModel(config, torch.device("cpu"))
    excite(model)
    batch = random_batch(config)
    loss, output = model(batch)
    score_N = output.network.main.score_N.detach()
    weights = random_evidence(config.schema).tolist()
    reward_N = [sum(w for w, y in zip(weights, row, strict=True) if y > 0) for row in batch.outcome_NO.tolist()]
    stream = range(batch.stream.requests)
    ends = batch.candidate_offsets_R1.tolist()
    slices = [list(range(ends[r], ends[r + 1])) for r in stream]
    total, count = torch.zeros(()), 0
    for group in lists_by_user(batch, stream) if groups == "user" else slices:
        used = [n for n in group if among == "all" or batch.outcome_NO[n, 0] > 0]
        count += len(used)
        if form == "bpr":
            for i, j in itertools.permutations(used, 2):
                if reward_N[i] > reward_N[j]:
                    total += (reward_N[i] - reward_N[j]) * nll(score_N[i] - score_N[j])
        elif used:
            error = torch.stack([score_N[n] - reward_N[n] for n in used])
            total += (error - error.mean()).square().sum()
    assert 0 < count <= batch.stream.candidates and (among == "all") == (count == batch.stream.candidates)
    assert int(output.pairs["reward"]) == count
    torch.testing.assert_close(output.losses["reward"], total / count, rtol=1e-5, atol=1e-6)
    others = output.losses["pointwise"] + output.losses["main"]
    torch.testing.assert_close(loss.detach(), others + 0.7 * output.losses["reward"])


@pytest.mark.parametrize("groups", ["request", "user"])
@pytest.mark.parametrize("pairs", ["equal", "utility"])
@pytest.mark.parametrize("among", ["all", "triggered"])
def test_engagement_losses_among_triggered_candidates_equal_loops(among: Among, pairs: str, groups: str) -> None:
    """A schema in which only actions have a weight: L_point can leave the other outcomes out."""
    config = small_config("main_only")
    trigger, like, follow = config.schema.outcomes
    outcomes = (dataclasses.replace(trigger, training_weight=0.0), like, follow)
    losses = Losses(
        pointwise=Pointwise(among=among, outcomes="weighted"), main=MainBPR(pairs=pairs, among=among), groups=groups
    ).without_reference()
    schema = dataclasses.replace(config.schema, outcomes=outcomes)
    model = TrainingModel(dataclasses.replace(config, schema=schema, losses=losses), torch.device("cpu"))
    excite(model)
    batch = random_batch(dataclasses.replace(config, losses=losses))
    loss, output = model(batch)
    predicted, score_N = output.network.main.outcomes, output.network.main.score_N.detach()
    assert predicted is not None and score_N.isfinite().all()
    stream, ends = range(batch.stream.requests), batch.candidate_offsets_R1.tolist()
    slices = [list(range(ends[r], ends[r + 1])) for r in stream]
    used = [n for n in range(batch.stream.candidates) if among == "all" or batch.outcome_NO[n, 0] > 0]
    entropy_NO = F.binary_cross_entropy_with_logits(predicted.logit_NO.detach(), batch.outcome_NO, reduction="none")
    torch.testing.assert_close(output.losses["pointwise"], entropy_NO[used, 1:].sum() / len(used))
    utility_N = 0.5 * batch.outcome_NO[:, 1:].sum(1)
    total, compared = torch.zeros(()), 0
    for group in lists_by_user(batch, stream) if groups == "user" else slices:
        for i, j in itertools.permutations([n for n in group if n in used], 2):
            if utility_N[i] > utility_N[j]:
                gain = utility_N[i] - utility_N[j] if pairs == "utility" else 1.0
                total, compared = total + gain * nll(score_N[i] - score_N[j]), compared + 1
    assert compared > 0
    count = len(used) if pairs == "utility" else compared
    assert int(output.pairs["main"]) == count and int(output.pairs["pointwise"]) == len(used)
    torch.testing.assert_close(output.losses["main"], total / count, rtol=1e-5, atol=1e-6)
    # Nothing moves the output of the outcome that is left out.
    (gradient_NO,) = torch.autograd.grad(loss, predicted.logit_NO)
    assert gradient_NO.isfinite().all() and gradient_NO.any(0).tolist() == [False, True, True]


def test_triggered_candidates_need_a_trigger() -> None:
    config = small_config("action_ranker")
    with pytest.raises(
        ValueError, match=r"losses\.pointwise\.among='triggered' is not allowed: all with a schema that"
    ):
        dataclasses.replace(config, schema=dataclasses.replace(config.schema, trigger=None))
