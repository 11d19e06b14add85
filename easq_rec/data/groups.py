"""The candidates of a batch by user: the lists in which losses compare them if requests are short.

Legend: R requests, N candidates, G groups, M candidates of all groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from easq_rec.data.columns import Rows, entries_of

LIMIT = 64
"""A group takes no further request once it has this many candidates, so that the tensors of its pairs stay small."""


@dataclass(frozen=True, kw_only=True)
class CandidateGroups:
    """Lists of candidates that are compared with each other."""

    order_M: Tensor
    """Positions of the candidates among the N, group by group, int64."""
    offsets_G1: Tensor
    """Offsets of the groups, (G + 1,)."""
    longest: int
    """Most candidates of a group, on the host."""

    def map(self, move: Callable[[Tensor], Tensor]) -> CandidateGroups:
        """The same groups with every tensor replaced by `move` of it."""
        return dataclasses.replace(self, order_M=move(self.order_M), offsets_G1=move(self.offsets_G1))

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.order_M, self.offsets_G1


def groups_of_users(user_R: Rows, offsets_R1: Rows, *, limit: int = LIMIT) -> CandidateGroups:
    """Candidates of the same user, in whole requests and in the order of the batch.

    A user whose candidates are more than `limit` has several groups. Requests are never cut: a request belongs to group
    number k of its user if k * limit or more, and fewer than (k + 1) * limit, of the user's candidates come before it.
    So a group has fewer than `limit` candidates and one request, and every pair of a request is in a group.

    Args:
        offsets_R1: offsets of the requests' candidates.
    """
    order_R, first_R, before_R = _by_user(user_R, offsets_R1)
    number_R = (before_R - before_R[first_R]) // limit
    begins_R = (first_R == np.arange(len(first_R))) | (np.diff(number_R, prepend=-1) != 0)
    return _groups(order_R, before_R, begins_R, offsets_R1)


def slates_of_users(user_R: Rows, offsets_R1: Rows, answered_R: Rows, kept_R: npt.NDArray[np.bool_]) -> CandidateGroups:
    """All candidates of each user that has answers, over which a softmax normalises.

    Args:
        answered_R: positions of the requests that have answers.
        kept_R: False at requests that are left out.
    """
    request = np.flatnonzero(kept_R & np.isin(user_R, user_R[answered_R]))
    lengths = offsets_R1[request + 1] - offsets_R1[request]
    order, first, before = _by_user(user_R[request], np.concatenate([[0], np.cumsum(lengths)]))
    return _groups(request[order], before, first == np.arange(len(first)), offsets_R1)


def _by_user(user_R: Rows, offsets_R1: Rows) -> tuple[Rows, Rows, Rows]:
    """(requests sorted by user; place of each user's first one among them; number of candidates before each)."""
    order_R = np.argsort(user_R, kind="stable")
    sorted_R = user_R[order_R]
    lengths_R = np.diff(offsets_R1)[order_R]
    return order_R, np.searchsorted(sorted_R, sorted_R), np.cumsum(lengths_R) - lengths_R


def _groups(order_R: Rows, before_R: Rows, begins_R: npt.NDArray[np.bool_], offsets_R1: Rows) -> CandidateGroups:
    """Groups of the requests `order_R`, which begin where `begins_R` is True."""
    order_M = entries_of(offsets_R1, order_R)
    offsets_G1 = np.append(before_R[begins_R], len(order_M))
    return CandidateGroups(
        order_M=torch.from_numpy(order_M),
        offsets_G1=torch.from_numpy(offsets_G1),
        longest=int(np.diff(offsets_G1).max(initial=0)),
    )
