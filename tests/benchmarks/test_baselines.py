"""The two baselines compute the same scores, those of an impression-level ranker."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from benchmarks.baselines import (
    Baseline,
    EqualMathEncoder,
    FullEncoder,
    ImpressionBatch,
    ImpressionRanker,
    Trainable,
    Workload,
    bpr_loss,
    build_equal_math,
    build_full_encoder,
    synthetic_batch,
)

TINY = Workload(
    requests=5,
    candidates=4,
    history=6,
    users=40,
    videos=30,
    authors=20,
    tags=10,
    user_feature_rows=8,
    table_dim=8,
    dim=16,
    heads=2,
    ffn=32,
    experts=3,
    expert_dim=16,
)


def batch_of(workload: Workload) -> ImpressionBatch:
    return synthetic_batch(workload, torch.Generator().manual_seed(1))


def pair(workload: Workload, *, fused: bool = True) -> tuple[ImpressionRanker, ImpressionRanker]:
    """Both rankers with the same weights."""
    torch.manual_seed(0)
    full = ImpressionRanker(workload, FullEncoder(workload))
    equal = ImpressionRanker(workload, EqualMathEncoder(workload, fused=fused))
    # Biases start at 0 and norms at 1. With random values every parameter affects the scores.
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    equal.load_state_dict(full.state_dict())
    return full, equal


def dense(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to_dense() if gradient.is_sparse else gradient


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_both_baselines_give_equal_scores_and_gradients(layers: int, fused: bool) -> None:
    workload = replace(TINY, layers=layers)
    full, equal = pair(workload, fused=fused)
    batch = batch_of(workload)
    full_score_N, equal_score_N = full(batch), equal(batch)
    assert full_score_N.shape == (workload.impressions,)
    assert float(full_score_N.detach().std()) > 0.01
    torch.testing.assert_close(equal_score_N, full_score_N, rtol=1e-5, atol=1e-5)

    for score_N in (full_score_N, equal_score_N):
        torch.autograd.backward(bpr_loss(score_N, batch.utility_N, workload.candidates))
    others = dict(equal.named_parameters())
    for name, parameter in full.named_parameters():
        gradient = dense(parameter.grad)
        if not name.endswith("score.bias"):  # a constant added to all scores does not change BPR
            assert float(gradient.abs().max()) > 1e-4, name
        torch.testing.assert_close(dense(others[name].grad), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_request_tokens_do_not_attend_to_the_candidate(fused: bool) -> None:
    torch.manual_seed(0)
    full, equal = FullEncoder(TINY), EqualMathEncoder(TINY, fused=fused)
    token_NTD = torch.randn(3, TINY.user_features + 1 + TINY.history + 1, TINY.dim)
    changed_NTD = token_NTD.clone()
    changed_NTD[:, -1] = torch.randn(3, TINY.dim)  # random values, because LayerNorm removes a constant shift
    for layer, mask in ((full.layers[0], {"src_mask": full.hidden_TT}), (equal.layers[0], {"bias_TT": equal.bias_TT})):
        before_NTD, after_NTD = layer(token_NTD, **mask), layer(changed_NTD, **mask)
        torch.testing.assert_close(after_NTD[:, :-1], before_NTD[:, :-1])
        assert not torch.allclose(after_NTD[:, -1], before_NTD[:, -1])


def test_every_input_affects_the_scores() -> None:
    _, equal = pair(TINY)
    batch = batch_of(TINY)
    score_N = equal(batch)
    for field in fields(ImpressionBatch):
        if field.name == "utility_N":
            continue
        value = getattr(batch, field.name)
        other = value + 1.0 if value.is_floating_point() else torch.where(value > 0, value - 1, value + 1)
        assert not torch.allclose(equal(replace(batch, **{field.name: other})), score_N), field.name


def test_tower_equals_a_loop_over_its_experts() -> None:
    _, equal = pair(TINY)
    tower, width = equal.tower, TINY.expert_dim
    token_ND = torch.randn(7, TINY.dim)
    h_ND = tower.norm(token_ND)
    gate_NX = torch.relu(tower.gate(tower.gate_norm(h_ND))) + 0.01
    mixed_ND = torch.zeros(7, width)
    for x in range(TINY.experts):
        rows = slice(x * width, (x + 1) * width)
        hidden = torch.relu(h_ND @ tower.hidden.weight[rows].T + tower.hidden.bias[rows])
        mixed_ND += gate_NX[:, x, None] * (hidden @ tower.out.weight[:, rows].T + tower.out_bias_XD[x])
    want_N = tower.score(torch.relu(mixed_ND)).squeeze(1)
    torch.testing.assert_close(tower(token_ND), want_N, rtol=1e-5, atol=1e-5)


def test_bpr_loss_equals_a_loop() -> None:
    score_N, utility_N = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0, 2.0, 2.0, 2.0])
    pairs = [torch.tensor(-(0.3 - other)).exp().log1p() for other in (-1.0, 2.0)]
    torch.testing.assert_close(bpr_loss(score_N, utility_N, 3), torch.stack(pairs).mean())
    assert float(bpr_loss(score_N[3:], utility_N[3:], 3)) == 0.0


@pytest.mark.parametrize("build", [build_full_encoder, build_equal_math])
def test_steps_lower_the_loss_and_update_every_parameter(build: Callable[[Workload], Trainable]) -> None:
    torch.manual_seed(0)
    baseline = build(TINY)
    assert isinstance(baseline, Baseline)
    before = {name: p.detach().clone() for name, p in baseline.ranker.named_parameters()}
    batch = batch_of(TINY)
    losses = [baseline.step(batch) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in baseline.ranker.named_parameters():
        if not name.endswith("score.bias"):
            assert not torch.equal(parameter, before[name]), name
    video_gradient = baseline.ranker.tables.video.weight.grad
    assert video_gradient is not None and video_gradient.is_sparse


def test_each_step_resets_the_gradients() -> None:
    torch.manual_seed(0)
    baseline = Baseline(TINY, EqualMathEncoder(TINY, fused=True))
    batch = batch_of(TINY)
    baseline.step(batch)
    fresh = copy.deepcopy(baseline.ranker)
    fresh.zero_grad()
    torch.autograd.backward(bpr_loss(fresh(batch), batch.utility_N, TINY.candidates))
    baseline.step(batch)
    want = dict(fresh.named_parameters())
    for name, parameter in baseline.ranker.named_parameters():
        torch.testing.assert_close(dense(parameter.grad), dense(want[name].grad), msg=name)


def test_impressions_of_a_request_share_its_context() -> None:
    batch = batch_of(TINY)
    for shared in (batch.user_NU, batch.history_video_NH, batch.history_gap_NH):
        shared_RC = shared.view(TINY.requests, TINY.candidates, -1)
        assert bool((shared_RC == shared_RC[:, :1]).all())
        assert not torch.equal(shared_RC[0], shared_RC[1])
    assert torch.unique(batch.video_N).numel() > TINY.candidates
