"""The lists of candidates that the losses compare: requests, or the requests of a user.

Legend: N candidates of a batch, M candidates of the groups, G groups, C candidates of a group (padded), A answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easq_rec.data.batch import RequestBatch
from easq_rec.data.groups import CandidateGroups
from easq_rec.kernels.jagged import Lists


@dataclass(frozen=True, kw_only=True)
class ComparisonGroups:
    """How values of candidates become one row per group."""

    lists: Lists
    order_M: Tensor | None = None
    """Positions of the candidates among the N, group by group; None: the groups are the first requests of the batch."""

    @staticmethod
    def of_stream(batch: RequestBatch) -> ComparisonGroups:
        """The stream's candidates by user, or by request if the batch has no groups of users."""
        stream = batch.stream
        if batch.groups is not None:
            return _of_users(batch.groups)
        return _of_requests(batch, stream.requests, stream.candidates)

    @staticmethod
    def of_slates(batch: RequestBatch, *, requests: int, candidates: int) -> ComparisonGroups:
        """What slate_softmax normalises over: all candidates of each user with answers, or the requests of a batch.

        Args:
            requests, candidates: how many of the batch have a policy score.
        """
        if batch.slates is not None:
            return _of_users(batch.slates)
        return _of_requests(batch, requests, candidates)

    def pad(self, value_N: Tensor) -> Tensor:
        """(N,) to (G, C), zeros at padding."""
        value_M = value_N[: self.lists.total] if self.order_M is None else value_N.index_select(0, self.order_M)
        return self.lists.pad(value_M[:, None]).squeeze(-1)

    def mask(self) -> Tensor:
        """(G, C), True at candidates, False at padding."""
        return self.lists.mask()

    def places(self, position_A: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
        """(group, place in the group) of candidates of the groups, each (A,).

        Args:
            position_A: their positions among the N.
            candidates: N.
        """
        if self.order_M is not None:
            place_N = self.order_M.new_zeros(candidates)
            place_N[self.order_M] = torch.arange(self.lists.total, device=self.order_M.device)
            position_A = place_N[position_A]
        offsets_G1 = self.lists.offsets_R1
        group_A = torch.bucketize(position_A, offsets_G1[1:], right=True)
        return group_A, position_A - offsets_G1[group_A]


def _of_users(groups: CandidateGroups) -> ComparisonGroups:
    lists = Lists(
        offsets_R1=groups.offsets_G1,
        count=len(groups.offsets_G1) - 1,
        total=len(groups.order_M),
        longest=groups.longest,
    )
    return ComparisonGroups(lists=lists, order_M=groups.order_M)


def _of_requests(batch: RequestBatch, requests: int, candidates: int) -> ComparisonGroups:
    """The first requests of a batch."""
    lists = Lists(
        offsets_R1=batch.candidate_offsets_R1[: requests + 1],
        count=requests,
        total=candidates,
        longest=batch.max_candidates,
    )
    return ComparisonGroups(lists=lists)
