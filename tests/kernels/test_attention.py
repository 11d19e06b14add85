"""The CPU implementations of the attention equal the reference in values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from easq_rec.kernels.attention import _HostAttention, _PackedAttention, attend_reference


@pytest.mark.parametrize(
    ("lists", "requests", "candidates", "heads", "width"),
    [(3, 5, 4, 2, 8), (2, 3, 0, 2, 8), (2, 3, 1, 4, 16), (1, 1, 2, 1, 4), (0, 3, 2, 2, 8), (4, 7, 3, 2, 6)],
)
@pytest.mark.parametrize("candidates_only", [False, True])
@pytest.mark.parametrize("masked", ["nothing", "padding", "other requests"])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_cpu_implementations_equal_the_reference(
    lists: int,
    requests: int,
    candidates: int,
    heads: int,
    width: int,
    candidates_only: bool,
    masked: str,
    spread: float,
) -> None:
    """Covers masks of keys, masks of pairs, and queries of candidates only.

    With `spread` 30 the logits differ so much that attention weights underflow in fp32.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = requests + candidates
    queries = candidates if candidates_only else tokens
    query = torch.randn(lists, queries, width, dtype=torch.float64, generator=generator) * spread
    key, value = (torch.randn(lists, tokens, width, dtype=torch.float64, generator=generator) for _ in range(2))
    bias = None
    if masked != "nothing":
        # One mask for all queries of a row, or one for each.
        real = torch.rand(lists, queries if masked == "other requests" else 1, requests, generator=generator) > 0.4
        real[..., 0] = True
        bias = torch.zeros(real.shape, dtype=torch.float64).masked_fill_(~real, -math.inf)[:, None]
    grad = torch.randn(lists, queries, width, dtype=torch.float64, generator=generator)
    results = []
    for function in (attend_reference, _HostAttention.apply, _PackedAttention.apply):
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        mixed = function(*inputs, requests, bias, heads)
        mixed.backward(grad)
        results.append([mixed.detach(), *(tensor.grad for tensor in inputs)])
    for plain, *hosts in zip(*results, strict=True):
        for host in hosts:
            torch.testing.assert_close(host, plain, rtol=1e-9, atol=1e-9 * spread)
