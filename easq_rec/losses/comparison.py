"""Counts what the losses over groups of candidates compare, before the network runs.

Legend: O outcomes, N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easq_rec.config import Losses
from easq_rec.data.batch import RequestBatch
from easq_rec.kernels.jagged import Lists
from easq_rec.losses.groups import ComparisonGroups
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.ranks import Pending, Ranks
from easq_rec.losses.term import RequestTerm, Term


@dataclass(frozen=True, kw_only=True)
class CountedPairs:
    """The pairs of a batch, and their number on all ranks, whose exchange is under way."""

    pairs: RequestPairs
    names: tuple[str, ...]
    """The losses that have counted."""
    totals: Pending
    """Number of comparisons of each of them on all ranks."""

    def counts(self) -> dict[str, Tensor]:
        """Waits for the exchange; returns the number of comparisons by loss."""
        return dict(zip(self.names, self.totals(), strict=True))


class Comparison(nn.Module):
    """RequestBatch to CountedPairs.

    Args:
        utility: weight of each outcome in the engagement utility of training.
        trigger: position of the schema's trigger among the outcomes; None: it has none.
    """

    utility_O: Tensor

    def __init__(
        self,
        losses: Losses,
        terms: Mapping[str, Term],
        utility: list[float],
        ranks: Ranks,
        *,
        trigger: int | None = None,
    ) -> None:
        super().__init__()
        self.losses = losses.terms
        self.terms = {name: term for name, term in terms.items() if isinstance(term, RequestTerm)}
        self.by_user = losses.groups == "user"
        self.trigger = trigger
        self.ranks = ranks
        self.register_buffer("utility_O", torch.tensor(utility), persistent=False)

    def forward(self, batch: RequestBatch) -> CountedPairs:
        pairs = self._pairs(batch)
        # `aligned` is the same on all ranks, so all of them send as many counts.
        due = {n: term for n, term in self.terms.items() if batch.aligned or self.losses[n].every_step}
        counts = torch.stack([term.count(pairs) for term in due.values()])
        return CountedPairs(pairs=pairs, names=tuple(due), totals=self.ranks.start_sum(counts))

    def _pairs(self, batch: RequestBatch) -> RequestPairs:
        assert (batch.groups is not None) == self.by_user, "the batch was collated for another losses.groups"
        groups, outcome_NO = ComparisonGroups.of_stream(batch), batch.outcome_NO[: batch.stream.candidates]
        return RequestPairs(
            groups=groups,
            utility_GC=groups.pad(outcome_NO @ self.utility_O),
            utility_O=self.utility_O,
            mask_GC=groups.mask(),
            evidence_lists=Lists(
                offsets_R1=batch.evidence_offsets,
                count=len(batch.evidence_offsets) - 1,
                total=len(batch.evidence_candidate_E),
                longest=batch.max_evidence,
            ),
            evidence_E=batch.evidence_E,
            triggered_N=outcome_NO[:, self.trigger] > 0 if self.trigger is not None else None,
            reward_N=batch.reward_N,
        )
