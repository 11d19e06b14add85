"""Products through oneDNN equal plain products for any number of rows, and compile only a few kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.kernels import linear
from easq_rec.kernels.linear import ONEDNN_WORK, below_grid, on_grid, product, weight_gradient

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
    found = product(x, weight, shift if bias else None, relu=relu)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected.relu() if relu else expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight_gradient(grad, x), grad.t() @ x, rtol=1e-5, atol=1e-4)


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
    weight = torch.randn(outside, inside)
    x, grad = torch.randn(4_096, inside), torch.randn(4_096, outside)
    first = ONEDNN_WORK // (inside * outside)
    limit = (512 - first) // 8 + 1 + 3 * 16
    for rows in range(first, 4_097, 3):
        product(x[:rows], weight, None)
    assert 10 < len(shapes) <= limit
    shapes.clear()
    for rows in range(first, 4_097, 3):
        weight_gradient(grad[:rows], x[:rows])
    assert 10 < len(shapes) <= limit
