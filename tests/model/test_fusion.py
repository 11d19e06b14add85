"""Fused scores equal a loop over requests."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.model.fusion import fused_scores, standardised

SCORES = st.sampled_from([-2.5, 0.0, 0.1, 0.3, 1e-6, 7.0, 1e6])


def loop(values: list[float]) -> list[float]:
    if len(set(values)) < 2:
        return [0.0] * len(values)
    mean, spread = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / spread for value in values]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.tuples(SCORES, SCORES), max_size=7), max_size=5), st.sampled_from([0.0, 0.7, -1.0]))
def test_fused_scores_equal_a_loop(requests: list[list[tuple[float, float]]], weight: float) -> None:
    lengths_R = torch.tensor([len(request) for request in requests], dtype=torch.int64)
    policy_N, reference_N = (
        torch.tensor([candidate[i] for request in requests for candidate in request], dtype=torch.float64)
        for i in range(2)
    )
    want = []
    for request in requests:
        policy, reference = loop([p for p, _ in request]), loop([r for _, r in request])
        want += [p + weight * r for p, r in zip(policy, reference, strict=True)]
    assert fused_scores(policy_N, reference_N, lengths_R, weight).tolist() == pytest.approx(want, abs=1e-9)


def test_equal_scores_give_zeros_and_offset_and_scale_have_no_effect() -> None:
    assert standardised(torch.full((7,), 0.1), torch.tensor([3, 0, 1, 3])).tolist() == [0.0] * 7
    score_N, lengths_R = torch.randn(20, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 10])
    moved_N = score_N * 3 + torch.tensor([5.0, -2.0]).repeat_interleave(10)
    torch.testing.assert_close(standardised(moved_N, lengths_R), standardised(score_N, lengths_R), rtol=0, atol=1e-6)
