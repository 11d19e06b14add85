"""Compares a package with the trained ranker, before it is published.

Legend: N candidates, R requests, C candidates of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from easq_rec.errors import UserError
from easq_rec.evaluation.metrics import ranking_metrics
from easq_rec.export.tables import Precision


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a package of some precision must hold."""

    difference: float | None
    """Largest difference of a score; for scores beyond 1, relative to the score. None: any."""
    pair_order: float
    """Smallest share of the pairs of candidates of a request that have the ranker's order."""
    ndcg: float
    """Largest difference in engagement NDCG@10."""


LIMITS: Mapping[Precision, GateLimits] = {
    "fp32": GateLimits(difference=1e-5, pair_order=1.0, ndcg=1e-4),
    "fp16": GateLimits(difference=2e-3, pair_order=0.999, ndcg=0.001),
    "int8": GateLimits(difference=None, pair_order=0.999, ndcg=0.001),
}
SAME = 1e-5
"""Scores that differ by less have no order: two ways to add the same numbers differ by this. A request that is scored
alone may also differ by this from the same request in a batch."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The comparison."""

    requests: int
    candidates: int
    difference: float
    """As in `GateLimits`."""
    pair_order: float
    ndcg: float
    """Engagement NDCG@10 of the package less that of the ranker."""
    alone: float
    """Largest difference between the score of a candidate whose request is scored alone, and its score in a batch."""

    @staticmethod
    def of(expected_N: Tensor, found_N: Tensor, utility_N: Tensor, length_R: Tensor, *, alone: float) -> Gate:
        """Compares scores of the package with those of the ranker.

        Args:
            utility_N: engagement utility, 0 or more.
            alone: largest difference, measured before.
        """
        ndcg = [_ndcg(score_N, utility_N, length_R) for score_N in (found_N, expected_N)]
        return Gate(
            requests=len(length_R),
            candidates=len(expected_N),
            difference=float(relative(found_N, expected_N)),
            pair_order=pair_order(expected_N, found_N, length_R),
            ndcg=ndcg[0] - ndcg[1],
            alone=alone,
        )

    def check(self, precision: Precision) -> None:
        """Raises UserError that says which limits are not held."""
        limits, problems = LIMITS[precision], []
        if limits.difference is not None and not self.difference <= limits.difference:
            problems.append(f"a score differs by {self.difference:.2g}, at most {limits.difference:g} is allowed")
        if not self.pair_order >= limits.pair_order:
            problems.append(
                f"{self.pair_order:.4%} of the pairs keep the order of the ranker, at least {limits.pair_order:.1%}"
            )
        if not abs(self.ndcg) <= limits.ndcg:
            problems.append(f"engagement NDCG@10 differs by {self.ndcg:+.5f}, at most {limits.ndcg:g} is allowed")
        if not self.alone <= SAME:
            problems.append(f"a request scores {self.alone:.2g} higher or lower alone than among others")
        if problems:
            listing = "\n".join(f"  {problem}" for problem in problems)
            remedy = "" if precision == "fp32" else "\nExport with --tables fp32, or with another precision."
            raise UserError(
                f"the package does not rank {self.requests:,} held-out requests as the trained ranker does, so nothing "
                f"was published:\n{listing}{remedy}"
            )

    def values(self) -> dict[str, float]:
        """For the manifest."""
        return asdict(self)


def relative(found_N: Tensor, expected_N: Tensor) -> Tensor:
    """Largest difference of a score, relative to the score where that is beyond 1; NaN if one is."""
    return ((found_N - expected_N).abs() / expected_N.abs().clamp(min=1)).max()


def pair_order(expected_N: Tensor, found_N: Tensor, length_R: Tensor) -> float:
    """Share of the pairs of a request's candidates that both scores order alike. A pair whose scores hardly differ has
    no order, and does not count; 1 without pairs."""
    kept = total = 0
    for expected_C, found_C in zip(expected_N.split(length_R.tolist()), found_N.split(length_R.tolist()), strict=True):
        step_CC, other_CC = (x_C[:, None] - x_C for x_C in (expected_C, found_C))
        ordered_CC = step_CC > SAME
        total += int(ordered_CC.sum())
        kept += int((ordered_CC & (other_CC > 0)).sum())
    return kept / total if total else 1.0


def _ndcg(score_N: Tensor, utility_N: Tensor, length_R: Tensor) -> float:
    unknown_N = torch.full_like(score_N, torch.nan)
    metrics = ranking_metrics(score_N, unknown_N, utility_N, length_R, torch.arange(len(length_R)))
    return float(metrics.engagement_ndcg10)
