"""The sums by request against plain loops: each metric is what its definition says, however the requests are cut."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from easq_rec.evaluation.metrics import RankingMetrics, by_request, calibration, pair_calibration, ranking_metrics
from easq_rec.evaluation.metrics.by_request import QUOTIENTS, answer_columns, request_columns
from tests.evaluation.metrics.loops import NAN, SCORES, TRUTHS, loop_auc, loop_gauc, loop_pairs, sklearn_ndcg

Candidate = tuple[float, float, float]
Request = tuple[int, list[Candidate]]
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([-4, 11, 12]),
        st.lists(st.tuples(SCORES, TRUTHS, st.sampled_from([0.0, 0.0, 0.3, 2.5])), max_size=12),
    ),
    max_size=6,
)
"""(user, [(score, truth, utility)]); some requests are empty, some users have one request, some have one class."""


def tensors(requests: list[Request]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    score_N, truth_N, utility_N = (
        torch.tensor([candidate[i] for _, request in requests for candidate in request], dtype=torch.float64)
        for i in range(3)
    )
    lengths_R = torch.tensor([len(request) for _, request in requests], dtype=torch.int64)
    return score_N, truth_N, utility_N, lengths_R, torch.tensor([user for user, _ in requests], dtype=torch.int64)


def loop_calibration(requests: list[Request]) -> list[tuple[float, float]]:
    """(predicted, observed) of every pair of a request whose utilities differ."""
    found = []
    for _, request in requests:
        for (s, _, u), (other_s, _, other_u) in itertools.combinations(request, 2):
            if u == other_u:
                continue
            margin = 0.0 if s == other_s else abs(s - other_s)
            right = 0.5 if s == other_s else float((s > other_s) == (u > other_u))
            found.append((1 / (1 + math.exp(-min(margin, 700.0))), right))
    return found


def loop_error(pairs: list[tuple[float, float]]) -> float:
    if not pairs:
        return NAN
    gaps = [0.0] * calibration.BINS
    for predicted, right in pairs:
        gaps[min(int((predicted - 0.5) * 2 * calibration.BINS), calibration.BINS - 1)] += predicted - right
    return sum(abs(gap) for gap in gaps) / len(pairs)


def loop_metrics(requests: list[Request]) -> dict[str, float]:
    def mean_ndcg(gains: list[list[tuple[float, float]]], k: int) -> float:
        defined = [value for request in gains if not math.isnan(value := sklearn_ndcg(request, k))]
        return sum(defined) / len(defined) if defined else NAN

    def share(counts: tuple[float, int]) -> float:
        return counts[0] / counts[1] if counts[1] else NAN

    satisfaction = [[(s, 0.0 if math.isnan(t) else 2**t - 1) for s, t, _ in request] for _, request in requests]
    engagement = [[(s, u) for s, _, u in request] for _, request in requests]
    by_user: dict[int, list[tuple[float, float]]] = {}
    for user, request in requests:
        by_user.setdefault(user, []).extend((s, t) for s, t, _ in request)
    pairs = loop_calibration(requests)
    want: dict[str, float] = {f"satisfaction_ndcg{k}": mean_ndcg(satisfaction, k) for k in (1, 5, 10)}
    want |= {f"engagement_ndcg{k}": mean_ndcg(engagement, k) for k in (1, 5, 10)}
    return want | {
        "pair_accuracy": share(loop_pairs([[(s, t) for s, t, _ in request] for _, request in requests])),
        "user_pair_accuracy": share(loop_pairs(list(by_user.values()))),
        "engagement_pair_accuracy": share(loop_pairs(engagement)),
        "gauc": loop_gauc([(s, u > 0, user) for user, request in requests for s, _, u in request]),
        "calibration_error": loop_error(pairs),
        "calibration_gap": sum(p - right for p, right in pairs) / len(pairs) if pairs else NAN,
        "requests": len(requests),
        "candidates": sum(len(request) for _, request in requests),
    }


@settings(deadline=None, max_examples=150)
@given(REQUESTS, st.sampled_from([1, 10, 1 << 16]))
def test_ranking_metrics_equal_their_definitions(requests: list[Request], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_request, "BLOCK", block)
        got = ranking_metrics(*tensors(requests))
    for name, value in loop_metrics(requests).items():
        assert getattr(got, name) == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(deadline=None, max_examples=50)
@given(REQUESTS)
def test_columns_add_up_over_any_users(requests: list[Request]) -> None:
    """The rows of some users are equal to an evaluation of only these users."""
    whole = request_columns(*tensors(requests))
    for kept in ([11], [-4, 12]):
        rows = torch.tensor([user in kept for user, _ in requests], dtype=torch.bool)
        part = request_columns(*tensors([request for request in requests if request[0] in kept]))
        for name, value in part.items():
            torch.testing.assert_close(whole[name][rows], value, equal_nan=True, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=100)
@given(REQUESTS, st.sampled_from([1, 7, 50, 1 << 20]))
def test_pair_calibration_equals_loops_whatever_the_chunk(requests: list[Request], chunk: int) -> None:
    score_N, _, utility_N, lengths_R, _ = tensors(requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "PAIR_CHUNK", chunk)
        got = pair_calibration(score_N, utility_N, lengths_R)
    assert got.pairs_RK.shape == (len(requests), calibration.BINS)
    for row, request in enumerate(requests):
        pairs = loop_calibration([request])
        assert float(got.pairs_RK[row].sum()) == len(pairs)
        assert float(got.predicted_RK[row].sum()) == pytest.approx(sum(predicted for predicted, _ in pairs))
        assert float(got.observed_RK[row].sum()) == sum(right for _, right in pairs)
        error = (got.predicted_RK[row] - got.observed_RK[row]).abs().sum()
        assert float(error) == pytest.approx(loop_error(pairs) * len(pairs) if pairs else 0.0, abs=1e-12)


def test_a_score_that_is_the_log_odds_is_calibrated_and_another_scale_is_not() -> None:
    """Outcomes drawn from sigma(y_i - y_j) themselves: two candidates per request, one of which is preferred."""
    generator = torch.Generator().manual_seed(0)
    score_RC = torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    first_R = torch.rand(40_000, generator=generator) < (score_RC[:, 0] - score_RC[:, 1]).sigmoid()
    utility_N = torch.stack([first_R, ~first_R], 1).double().flatten()
    lengths_R = torch.full((40_000,), 2)
    user_R = torch.arange(40_000)
    found = {
        scale: ranking_metrics(score_RC.flatten() * scale, utility_N, utility_N, lengths_R, user_R)
        for scale in (0.3, 1.0, 3.0)
    }
    assert found[1.0].calibration_error < 0.01 and abs(found[1.0].calibration_gap) < 0.01
    assert found[0.3].calibration_gap < -0.05 and found[3.0].calibration_gap > 0.05
    assert found[3.0].calibration_error > 0.1
    # A level that differs between requests changes nothing.
    level_N = torch.randn(40_000, generator=generator).repeat_interleave(2)
    moved = ranking_metrics(score_RC.flatten() + level_N, utility_N, utility_N, lengths_R, user_R)
    assert moved.calibration_error == pytest.approx(found[1.0].calibration_error, abs=1e-9)


def test_calibration_is_that_of_the_policy_whatever_is_served() -> None:
    generator = torch.Generator().manual_seed(0)
    policy_N, served_N = torch.randn(2, 40, generator=generator)
    utility_N = torch.randint(0, 3, (40,), generator=generator).float()
    lengths_R, user_R = torch.full((4,), 10), torch.tensor([1, 1, 2, 3])
    fused = request_columns(served_N, utility_N, utility_N, lengths_R, user_R, policy_N=policy_N)
    alone = request_columns(policy_N, utility_N, utility_N, lengths_R, user_R)
    for name in by_request.CALIBRATION:
        torch.testing.assert_close(fused[name], alone[name])
    assert not torch.equal(fused["engagement_ndcg5"], alone["engagement_ndcg5"])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-4, 11]), st.lists(st.tuples(SCORES, st.sampled_from([-1, -1, 0, 1, 2])), max_size=8)
        ),
        max_size=6,
    )
)
def test_answer_columns_equal_loops(requests: list[tuple[int, list[tuple[float, int]]]]) -> None:
    got = answer_columns(
        torch.tensor([score for _, request in requests for score, _ in request], dtype=torch.float64),
        torch.tensor([answer for _, request in requests for _, answer in request], dtype=torch.int64),
        torch.tensor([len(request) for _, request in requests], dtype=torch.int64),
        torch.tensor([user for user, _ in requests], dtype=torch.int64),
    )
    for k in (1, 5, 10):
        want = [sklearn_ndcg([(s, float(answer == 2)) for s, answer in request], k) for _, request in requests]
        assert got[f"answer_ndcg{k}"].tolist() == pytest.approx(want, nan_ok=True)
    compared = [(s, answer == 2, user) for user, request in requests for s, answer in request if answer in (0, 2)]
    found = got["answer_gauc_won"].sum() / got["answer_gauc_weight"].sum()
    assert float(found) == pytest.approx(loop_gauc(compared), abs=1e-12, nan_ok=True)


def test_one_user_has_its_auc() -> None:
    generator = torch.Generator().manual_seed(1)
    score_N, utility_N = torch.randn(300, generator=generator), (torch.rand(300, generator=generator) < 0.3).float()
    got = ranking_metrics(score_N, utility_N, utility_N, torch.full((30,), 10), torch.full((30,), 7))
    assert got.gauc == pytest.approx(roc_auc_score(utility_N.numpy(), score_N.numpy()), abs=1e-12)
    assert got.user_pair_accuracy == pytest.approx(got.gauc, abs=1e-12)
    assert got.gauc == pytest.approx(loop_auc(list(zip(score_N.tolist(), (utility_N > 0).tolist(), strict=True))))


def test_nothing_to_rank_is_undefined_not_an_error() -> None:
    empty = torch.zeros(0)
    for lengths_R in (torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        got = ranking_metrics(empty, empty, empty, lengths_R, lengths_R)
        assert (got.requests, got.candidates) == (lengths_R.numel(), 0)
        assert all(math.isnan(value) for name, value in vars(got).items() if name not in ("requests", "candidates"))
        assert answer_columns(empty, empty.long(), lengths_R, lengths_R)["answer_ndcg5"].shape == lengths_R.shape


def test_every_quotient_is_a_metric() -> None:
    assert set(QUOTIENTS) - {"answer_gauc"} <= set(RankingMetrics.__dataclass_fields__)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths_R = torch.randint(0, 20, (300,), generator=generator)
    score_N, truth_N, utility_N = (
        torch.randint(0, 4, (int(lengths_R.sum()),), generator=generator).float() for _ in range(3)
    )
    arguments = (score_N, truth_N, utility_N, lengths_R, torch.arange(300) % 50)
    cpu, cuda = ranking_metrics(*arguments), ranking_metrics(*(tensor.cuda() for tensor in arguments))
    for name, value in vars(cpu).items():
        assert getattr(cuda, name) == pytest.approx(value, abs=1e-6), name
