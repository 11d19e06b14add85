"""Products through oneDNN equal plain products for any number of rows, and compile only a few kernels."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.kernels import linear
from easq_rec.kernels.linear import below_grid, on_grid, product, weight_gradient
from tests import cpus

WIDTHS = st.sampled_from([1, 40, 96])


@given(st.integers(1, 100_000))
def test_grid_points_are_close(rows: int) -> None:
    """The next grid point in each direction is less than 1/16 of the rows, or eight rows, away.

    A grid point is rounded to itself.
    """
    up, down = on_grid(rows), below_grid(rows)
    assert rows <= up < rows + max(rows / 16, 8)
    assert rows - max(rows / 16, 8) < down <= rows
    assert on_grid(up) == up == below_grid(up)
    assert on_grid(down) == down == below_grid(down) or down == 0


@given(rows=st.integers(0, 700), inside=WIDTHS, outside=WIDTHS, relu=st.booleans(), bias=st.booleans())
@settings(max_examples=100, deadline=None)
def test_products_equal_plain_products_for_any_number_of_rows(
    rows: int, inside: int, outside: int, relu: bool, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, grad = (torch.randn(rows, width, generator=generator) for width in (inside, outside))
    weight, shift = torch.randn(outside, inside, generator=generator), torch.randn(outside, generator=generator)
    expected = F.linear(x, weight, shift if bias else None)
    with pytest.MonkeyPatch.context() as patch:
        # Small sizes, which tests can afford, on any CPU.
        patch.setattr(linear, "ONEDNN", linear.has_onednn_linear())
        patch.setattr(linear, "ONEDNN_WORK", 1 << 20)
        found = product(x, weight, shift if bias else None, relu=relu)
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected.relu() if relu else expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weight_gradient(grad, x), grad.t() @ x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("capability", "pays"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_the_flags_of_the_cpu_choose_the_library(capability: str, pays: bool) -> None:
    """Without AVX-512 a product of any size runs through BLAS."""
    assert linear.onednn_pays(capability) == (pays and linear.has_onednn_linear())


def test_a_process_that_is_limited_to_avx2_uses_no_onednn() -> None:
    code = """
import torch
from easq_rec.kernels import linear
def forbidden(*args, **options): raise AssertionError("oneDNN")
linear.onednn_linear = forbidden
x = torch.randn(9_000, 64)
linear.product(x, torch.randn(256, 64), None)
linear.weight_gradient(torch.randn(9_000, 256), x)
"""
    for cpu in ("avx2", "default"):
        subprocess.run([sys.executable, "-c", code], env=cpus.environment(cpu), check=True, timeout=120)


@pytest.mark.parametrize(("inside", "outside"), [(64, 128), (128, 64)])
def test_ragged_batches_share_kernels(inside: int, outside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN compiles a kernel for each shape and keeps it.

    A new shape in every step would be slow, and memory would grow without limit.
    """
    if not linear.has_onednn_linear():
        pytest.skip("this build of torch has no oneDNN linear")
    shapes: set[tuple[Any, ...]] = set()
    kernel = linear.onednn_linear

    def counting(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
        shapes.add((x.shape, weight.shape))
        return kernel(x, weight, *rest, **options)

    monkeypatch.setattr(linear, "onednn_linear", counting)
    monkeypatch.setattr(linear, "ONEDNN", True)
    monkeypatch.setattr(linear, "ONEDNN_WORK", 1 << 20)
    weight = torch.randn(outside, inside)
    x, grad = torch.randn(4_096, inside), torch.randn(4_096, outside)
    first = linear.ONEDNN_WORK // (inside * outside)
    limit = (512 - first) // 8 + 1 + 3 * 16
    for rows in range(first, 4_097, 3):
        product(x[:rows], weight, None)
    assert 10 < len(shapes) <= limit
    shapes.clear()
    for rows in range(first, 4_097, 3):
        weight_gradient(grad[:rows], x[:rows])
    assert 10 < len(shapes) <= limit
