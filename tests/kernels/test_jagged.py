"""Padding lists and taking the padding off again: against Python loops, with gradients, down to no lists at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from easq_rec.kernels.jagged import Lists

LENGTHS = st.lists(st.integers(0, 5), max_size=6)


def lists_of(lengths: list[int], spare: int = 0) -> Lists:
    """`spare`: by how much the padding is longer than the longest list, as in a part of a batch."""
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
def test_pad_and_flatten(lengths: list[int], spare: int, width: int) -> None:
    """pad is the loop, mask says where entries are, and flatten undoes pad."""
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
    """pad passes the gradients of entries only; flatten gives the padding zero gradients."""
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
def test_types(lengths: list[int], dtype: torch.dtype) -> None:
    """Every type in which the dense part may run, autocast's included; forward and backward."""
    lists = lists_of(lengths, spare=1)
    x_MD = torch.randn(sum(lengths), 2).to(dtype).requires_grad_()
    y_MD = lists.flatten(lists.pad(x_MD))
    assert y_MD.dtype == dtype
    y_MD.sum().backward()
    torch.testing.assert_close(x_MD.grad, torch.ones_like(x_MD), rtol=0, atol=0)


def test_a_part_of_a_bigger_tensor() -> None:
    """Rows sliced out of others, as the stream's and the replayed part of a batch are."""
    whole_MD = torch.randn(9, 2, requires_grad=True)
    lists = lists_of([2, 0, 3], spare=2)
    padded = lists.pad(whole_MD[3:8])
    torch.testing.assert_close(padded, padded_by_loop(whole_MD[3:8], [2, 0, 3], 5))
    padded.sum().backward()
    assert whole_MD.grad.sum(1).tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 0]
