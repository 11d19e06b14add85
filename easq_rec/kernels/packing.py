"""Packing: short requests share a row of the padded tensor.

A padded tensor has one row per request, as long as the longest request. In logs most requests are short, and most of
such a tensor is padding: five of six tokens, at 2.5 history entries on average and 22 in the longest of a batch.
Packed, a row holds several requests, and a mask keeps their tokens apart. So operators that work token by token, and
the products of attention, have few unused slots.

A row has S slots for request tokens, then C slots for candidates, so that it looks like the row of one request with S
request tokens and C candidates.

Legend: R requests, U user tokens, H history entries, N candidates, M = R * U + H + N tokens, P rows, T = S + C slots of
a row, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from easq_rec.kernels.jagged import Lists

SAVING = 0.8
"""Requests are packed if the packed tensor has at most this share of the padded tensor's slots."""
REQUEST_SLOTS = 24
"""A row has room for this many request tokens, or for the longest request. With less room more slots stay unused, with
more room attention multiplies more pairs of different requests."""
UNUSED = -1

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which slot each token has. Tokens are in the order users, history entries, candidates, each by request."""

    rows: int
    """P."""
    requests: int
    """S."""
    candidates: int
    """C."""
    token_PT: Tensor
    """The token of each slot, flat, int64. Unused slots repeat token 0, so that their values are finite."""
    slot_M: Tensor
    """The slot of each token among all P * T, int64."""
    candidate_slot_N: Tensor
    """The slot of each candidate among the P * C slots for candidates, int64."""
    request_PT: Tensor
    """The request of the token in each slot, or UNUSED, (P, T) int64."""

    @staticmethod
    def of(users: int, histories: Lists, candidates: Lists) -> Packing | None:
        """The packing of requests; None if padding them costs little, on devices other than the CPU, and in a traced
        program.

        It is made from numbers on the host. On a GPU they would have to be copied there while it waits.

        Args:
            users: U, the user tokens of each request.
            histories, candidates: the lists of the same R requests.
        """
        if histories.traced or histories.offsets_R1.device.type != "cpu" or not candidates.total:
            return None
        padded = histories.count * (users + histories.longest + candidates.longest)
        real = histories.count * users + histories.total + candidates.total
        if real > SAVING * padded:
            return None
        history_R, candidate_R = (np.diff(lists.offsets_R1.numpy()) for lists in (histories, candidates))
        placed = _place(users + history_R, candidate_R)
        if placed.rows * (placed.requests + placed.candidates) > SAVING * padded:
            return None
        return _packing(users, history_R, candidate_R, placed)

    def visible(self) -> Tensor:
        """(P, T, S), True where the query in a slot sees the request token in another. A query in an unused slot sees
        all, so that a softmax over what it sees is finite."""
        query_PT1 = self.request_PT[:, :, None]
        return (query_PT1 == self.request_PT[:, None, : self.requests]) | (query_PT1 == UNUSED)

    def pack(self, x_MD: Tensor) -> Tensor:
        """Tokens to slots, (M, D) to (P, T, D)."""
        packed: Tensor = _Pack.apply(x_MD, self.token_PT, self.slot_M)
        return packed.view(self.rows, -1, x_MD.shape[-1])

    def flatten(self, x_PCD: Tensor) -> Tensor:
        """What was computed for candidates, (P, C, D) to (N, D)."""
        flat: Tensor = _Unpack.apply(x_PCD.flatten(0, 1), self.candidate_slot_N)
        return flat


class _Pack(torch.autograd.Function):
    """Copies each token into its slot. The gradient of a token is that of its slot: a copy, too, and no sum."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, token: Tensor, slot_M: Tensor) -> Tensor:
        ctx.save_for_backward(slot_M)
        return x_MD.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slot_M,) = ctx.saved_tensors
        return grads[0].index_select(0, slot_M), None, None


class _Unpack(torch.autograd.Function):
    """Copies the used slots. The gradient of the others is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_N: Tensor) -> Tensor:
        ctx.save_for_backward(slot_N)
        ctx.slots = len(x)
        return x.index_select(0, slot_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slot_N,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.slots, grads[0].shape[1]).index_copy_(0, slot_N, grads[0]), None


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """The row of each request, and its first slot there among those for request tokens and for candidates."""

    rows: int
    requests: int
    candidates: int
    row_R: Rows
    first_R: Rows
    first_candidate_R: Rows


def _place(tokens_R: Rows, candidate_R: Rows) -> _Placed:
    """Largest request first, each into the row that it fills least.

    Rows become equally full, both of request tokens and of candidates. First fit, the usual rule, leaves the small
    requests for the last rows, which then hold few request tokens and many candidates.
    """
    tokens, candidates = int(tokens_R.sum()), int(candidate_R.sum())
    rows = -(-tokens // max(int(tokens_R.max()), REQUEST_SLOTS))
    # Shares of all tokens and of all candidates, times the product of both: integers, the same on every CPU.
    token_share_R, candidate_share_R = tokens_R * candidates, candidate_R * tokens
    order = np.argsort(-(token_share_R + candidate_share_R), kind="stable")
    row_R = np.empty(len(tokens_R), np.int64)
    filled, filled_candidates = [0] * rows, [0] * rows
    limit = tokens * candidates + 1
    shares = zip(order.tolist(), token_share_R[order].tolist(), candidate_share_R[order].tolist(), strict=True)
    for request, share, candidate_share in shares:
        least, row = limit, 0
        # This runs for each pair of a request and a row. Calls of max would triple its time.
        for index in range(rows):
            fuller, other = filled[index] + share, filled_candidates[index] + candidate_share
            if other > fuller:
                fuller = other
            if fuller < least:
                least, row = fuller, index
        row_R[request] = row
        filled[row] += share
        filled_candidates[row] += candidate_share
    return _Placed(
        rows=rows,
        requests=max(filled) // candidates,
        candidates=max(filled_candidates) // tokens,
        row_R=row_R,
        first_R=_first(row_R, tokens_R),
        first_candidate_R=_first(row_R, candidate_R),
    )


def _first(row_R: Rows, length_R: Rows) -> Rows:
    """The first slot of each request, if the requests of a row follow each other."""
    order = np.argsort(row_R, kind="stable")
    length, row = length_R[order], row_R[order]
    before = np.cumsum(length) - length
    first_R = np.empty(len(row_R), np.int64)
    first_R[order] = before - before[np.searchsorted(row, row)]
    return first_R


def _packing(users: int, history_R: Rows, candidate_R: Rows, placed: _Placed) -> Packing:
    """Slots of tokens, from the places of their requests."""
    request_R = np.arange(len(history_R))
    width = placed.requests + placed.candidates
    first_R = placed.row_R * width + placed.first_R
    first_candidate_R = placed.row_R * placed.candidates + placed.first_candidate_R
    user_slot = (first_R[:, None] + np.arange(users)).ravel()
    history_slot = _run(first_R + users, history_R)
    candidate_slot_N = _run(first_candidate_R, candidate_R)
    row_N = np.repeat(placed.row_R, candidate_R)
    slot_M = np.concatenate([user_slot, history_slot, candidate_slot_N + (row_N + 1) * placed.requests])
    owner_M = np.concatenate([request_R.repeat(users), request_R.repeat(history_R), request_R.repeat(candidate_R)])
    token_PT = np.zeros(placed.rows * width, np.int64)
    token_PT[slot_M] = np.arange(len(slot_M))
    request_PT = np.full(placed.rows * width, UNUSED, np.int64)
    request_PT[slot_M] = owner_M
    return Packing(
        rows=placed.rows,
        requests=placed.requests,
        candidates=placed.candidates,
        token_PT=torch.from_numpy(token_PT),
        slot_M=torch.from_numpy(slot_M),
        candidate_slot_N=torch.from_numpy(candidate_slot_N),
        request_PT=torch.from_numpy(request_PT.reshape(placed.rows, width)),
    )


def _run(first_R: Rows, length_R: Rows) -> Rows:
    """For each list, `length` consecutive numbers from `first` on, all lists one after the other."""
    ends = np.cumsum(length_R)
    return np.repeat(first_R - (ends - length_R), length_R) + np.arange(ends[-1] if len(ends) else 0)
