"""Packed tokens come back unchanged, see only their request, and rows have few unused slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easq_rec.kernels import packing
from easq_rec.kernels.jagged import Lists
from easq_rec.kernels.packing import UNUSED, Packing

LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=12)


def lists_of(lengths: list[int]) -> Lists:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Lists(offsets_R1=offsets, count=len(lengths), total=sum(lengths), longest=max(lengths, default=0))


def packed(users: int, histories: list[int], candidates: list[int], slots: int) -> Packing:
    """The packing of requests, also where padding costs little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SAVING", 100.0)
        patch.setattr(packing, "REQUEST_SLOTS", slots)
        found = Packing.of(users, lists_of(histories), lists_of(candidates))
    assert found is not None
    return found


@given(lengths=LENGTHS, users=st.integers(1, 3), slots=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_every_token_has_a_slot_and_sees_its_request(lengths: list[tuple[int, int]], users: int, slots: int) -> None:
    """Compared with loops: tokens before candidates in each row, no slot used twice, visible pairs of one request."""
    histories, candidates = [h for h, _ in lengths], [max(c, int(not i)) for i, (_, c) in enumerate(lengths)]
    found = packed(users, histories, candidates, slots)
    owners = [r for r in range(len(lengths)) for _ in range(users)]
    owners += [r for r, h in enumerate(histories) for _ in range(h)]
    first_candidate = len(owners)
    owners += [r for r, c in enumerate(candidates) for _ in range(c)]
    width, slot_M = found.requests + found.candidates, found.slot_M.tolist()
    assert len(set(slot_M)) == len(slot_M) == len(owners)
    visible = found.visible()
    assert visible.shape == (found.rows, width, found.requests) and visible.any(-1).all()
    request_PT = found.request_PT.flatten().tolist()
    assert sum(owner != UNUSED for owner in request_PT) == len(owners)
    for token, (slot, owner) in enumerate(zip(slot_M, owners, strict=True)):
        assert found.token_PT[slot] == token and request_PT[slot] == owner
        row, column = divmod(slot, width)
        assert (column >= found.requests) == (token >= first_candidate)
        if token >= first_candidate:
            place = int(found.candidate_slot_N[token - first_candidate])
            assert divmod(place, found.candidates) == (row, column - found.requests)
        seen = [bool(visible[row, column, key]) for key in range(found.requests)]
        assert seen == [request_PT[row * width + key] == owner for key in range(found.requests)]


@given(lengths=LENGTHS, users=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_tokens_come_back_and_gradients_are_copies(lengths: list[tuple[int, int]], users: int) -> None:
    """An unused slot has no gradient, a used one passes its gradient on unchanged."""
    histories, candidates = [h for h, _ in lengths], [c + 1 for _, c in lengths]
    found = packed(users, histories, candidates, 8)
    x_MD = torch.randn(len(found.slot_M), 3, requires_grad=True)
    x_PTD = found.pack(x_MD)
    torch.testing.assert_close(x_PTD.flatten(0, 1)[found.slot_M], x_MD, rtol=0, atol=0)
    candidate_ND = found.flatten(x_PTD[:, found.requests :])
    torch.testing.assert_close(candidate_ND, x_MD[-sum(candidates) :], rtol=0, atol=0)
    weight_PTD, weight_ND = torch.randn_like(x_PTD), torch.randn_like(candidate_ND)
    ((x_PTD * weight_PTD).sum() + (candidate_ND * weight_ND).sum()).backward()
    expected_MD = weight_PTD.flatten(0, 1)[found.slot_M]
    expected_MD[-sum(candidates) :] += weight_ND
    torch.testing.assert_close(x_MD.grad, expected_MD)


def test_rows_of_short_requests_are_almost_full() -> None:
    """Lengths as in a log, where most requests are short: rows have at most 15% of unused slots; padded, 80%."""
    generator = torch.Generator().manual_seed(0)
    histories = torch.empty(128).geometric_(0.28, generator=generator).long().sub(1).clamp(max=50).tolist()
    candidates = torch.multinomial(torch.tensor([0.6, 0.2, 0.1, 0.05, 0.05]), 128, True, generator=generator).add(1)
    found = Packing.of(1, lists_of(histories), lists_of(candidates.tolist()))
    assert found is not None
    assert len(found.slot_M) >= 0.85 * found.request_PT.numel()


@pytest.mark.parametrize(
    ("histories", "candidates"),
    [([50] * 8, [12] * 8), ([50, 49, 48, 50], [12, 12, 11, 12]), ([0, 0], [0, 0]), ([3], [2])],
)
def test_padding_that_costs_little_is_kept(histories: list[int], candidates: list[int]) -> None:
    """Requests of about equal length have a row each; so have requests without candidates, and a single one."""
    assert Packing.of(2, lists_of(histories), lists_of(candidates)) is None


def test_half_precision() -> None:
    """Under autocast the tokens are bf16, and so are their gradients."""
    found = packed(1, [3, 0, 1], [1, 2, 1], 4)
    x_MD = torch.randn(len(found.slot_M), 2).bfloat16().requires_grad_()
    y_ND = found.flatten(found.pack(x_MD)[:, found.requests :])
    assert y_ND.dtype == torch.bfloat16
    y_ND.sum().backward()
    assert x_MD.grad is not None and x_MD.grad.dtype == torch.bfloat16
