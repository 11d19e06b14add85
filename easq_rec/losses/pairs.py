"""Which candidates of a request the losses compare.

Labels alone tell, so that the ranks count their pairs while the network still computes its scores.

Legend: R requests of the stream, C candidates (padded), S requests with evidence, E candidates that it tells apart
(padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easq_rec.data.batch import RequestBatch
from easq_rec.kernels.jagged import Lists
from easq_rec.losses.ranks import Pending, Ranks


@dataclass(frozen=True, kw_only=True)
class RequestPairs:
    """The ordered pairs (i, j) of a request's candidates that are compared, as masks."""

    real_RCC: Tensor
    """True where i and j are two candidates, neither of them padding: what L_dense compares."""
    better_RCC: Tensor
    """True where the engagement utility of i is above that of j: what L_main compares."""
    told: Lists
    """How the candidates that evidence tells apart fall to requests."""
    told_SEE: Tensor
    """What evidence says of i beyond what it says of j, a log-likelihood ratio; 0 where that is not more, or one of the
    two is padding: what L_evidence compares."""
    totals: Pending
    """Number of pairs on all ranks, (3,): L_main, L_dense (unordered), L_evidence."""


class Comparison(nn.Module):
    """RequestBatch to RequestPairs, whose counts are on their way between the ranks.

    Args:
        utility: weight of each outcome in the engagement utility.
    """

    utility_O: Tensor

    def __init__(self, utility: list[float], ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks
        self.register_buffer("utility_O", torch.tensor(utility), persistent=False)

    def forward(self, batch: RequestBatch) -> RequestPairs:
        stream = batch.stream
        lists = Lists(
            offsets_R1=batch.candidate_offsets_R1[: stream.requests + 1],
            count=stream.requests,
            total=stream.candidates,
            longest=batch.max_candidates,
        )
        told = Lists(
            offsets_R1=batch.told_offsets,
            count=len(batch.told_offsets) - 1,
            total=len(batch.told_E),
            longest=batch.max_told,
        )
        utility_N = batch.outcome_NO[: stream.candidates] @ self.utility_O
        real_RCC = real_pairs(lists.mask())
        better_RCC = better_pairs(lists.pad(utility_N[:, None]).squeeze(-1), real_RCC)
        told_SEE = told_pairs(told.pad(batch.evidence_E[:, None]).squeeze(-1), told.mask())
        counts = torch.stack([better_RCC.sum(), real_RCC.sum() // 2, (told_SEE > 0).sum()])
        return RequestPairs(
            real_RCC=real_RCC,
            better_RCC=better_RCC,
            told=told,
            told_SEE=told_SEE,
            totals=self.ranks.start_sum(counts),
        )


def real_pairs(mask_RC: Tensor) -> Tensor:
    """Two candidates each, (R, C, C). `mask_RC`: True at candidates, False at padding."""
    same_CC = torch.eye(mask_RC.shape[1], dtype=torch.bool, device=mask_RC.device)
    return mask_RC[:, :, None] & mask_RC[:, None, :] & ~same_CC


def better_pairs(utility_RC: Tensor, real_RCC: Tensor) -> Tensor:
    """Those of the pairs whose first candidate has the higher utility, (R, C, C)."""
    return (utility_RC[:, :, None] > utility_RC[:, None, :]) & real_RCC


def told_pairs(evidence_SE: Tensor, mask_SE: Tensor) -> Tensor:
    """By how much more evidence speaks for the first candidate of each pair, (S, E, E), and 0 where it does not."""
    more_SEE = (evidence_SE[:, :, None] - evidence_SE[:, None, :]).clamp(min=0)
    return more_SEE * (mask_SE[:, :, None] & mask_SE[:, None, :])
