"""Padding and flattening lists equal Python loops in values and gradients, also for a batch without lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.kernels.jagged import Lists

LENGTHS = st.lists(st.integers(0, 5), max_size=6)


def lists_of(lengths: list[int], spare: int = 0) -> Lists:
    """Lists that are padded to `spare` entries more than the longest list, as in a part of a batch."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Lists(offsets_R1=offsets, count=len(lengths), total=sum(lengths), longest=max(lengths, default=0) + spare)


def padded_by_loop(x_MD: Tensor, lengths: list[int], longest: int) -> Tensor:
    x_RLD = x_MD.new_zeros(len(lengths), longest, x_MD.shape[1])
    first = 0
    for index, length in enumerate(lengths):
        for position in range(length):
            x_RLD[index, position] = x_MD[first + position]
        first += length
    return x_RLD


@given(lengths=LENGTHS, spare=st.integers(0, 2), width=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_pad_equals_a_loop_and_flatten_is_its_inverse(lengths: list[int], spare: int, width: int) -> None:
    """pad equals the loop, mask is true at entries, and flatten is the inverse of pad."""
    lists = lists_of(lengths, spare)
    x_MD = torch.randn(sum(lengths), width)
    padded = lists.pad(x_MD)
    torch.testing.assert_close(padded, padded_by_loop(x_MD, lengths, lists.longest), rtol=0, atol=0)
    torch.testing.assert_close(lists.flatten(padded), x_MD, rtol=0, atol=0)
    expected = [[position < length for position in range(lists.longest)] for length in lengths]
    assert lists.mask().tolist() == expected
    assert lists.full == all(length == lists.longest for length in lengths)


@given(lengths=LENGTHS, spare=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_gradients(lengths: list[int], spare: int) -> None:
    """pad passes on only the gradients of entries. flatten gives zero gradients to the padding."""
    lists = lists_of(lengths, spare)
    x_MD = torch.randn(sum(lengths), 3, requires_grad=True)
    weight_RLD = torch.randn(len(lengths), lists.longest, 3)
    (lists.pad(x_MD) * weight_RLD).sum().backward()
    torch.testing.assert_close(x_MD.grad, weight_RLD[lists.mask()], rtol=0, atol=0)
    x_RLD = torch.randn(len(lengths), lists.longest, 3, requires_grad=True)
    weight_MD = torch.randn(sum(lengths), 3)
    (lists.flatten(x_RLD) * weight_MD).sum().backward()
    torch.testing.assert_close(x_RLD.grad, padded_by_loop(weight_MD, lengths, lists.longest), rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [2, 2], [3, 0, 1]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept(lengths: list[int], dtype: torch.dtype) -> None:
    """Covers every dtype in which the dense part may run, including that of autocast, forward and backward."""
    lists = lists_of(lengths, spare=1)
    x_MD = torch.randn(sum(lengths), 2).to(dtype).requires_grad_()
    y_MD = lists.flatten(lists.pad(x_MD))
    assert y_MD.dtype == dtype
    y_MD.sum().backward()
    torch.testing.assert_close(x_MD.grad, torch.ones_like(x_MD), rtol=0, atol=0)


def test_a_slice_of_a_larger_tensor() -> None:
    """The entries are a slice of a larger tensor, as in the streamed and in the replayed part of a batch."""
    whole_MD = torch.randn(9, 2, requires_grad=True)
    lists = lists_of([2, 0, 3], spare=2)
    padded = lists.pad(whole_MD[3:8])
    torch.testing.assert_close(padded, padded_by_loop(whole_MD[3:8], [2, 0, 3], 5))
    padded.sum().backward()
    assert whole_MD.grad.sum(1).tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 0]
