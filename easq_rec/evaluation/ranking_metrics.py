"""The ranking metrics, by name. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from easq_rec.config.schema import require


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Ranking quality of one score on held-out requests. Undefined metrics are NaN."""

    satisfaction_ndcg1: float
    satisfaction_ndcg5: float
    """Mean NDCG@5 with gain 2**grade - 1, over the requests with a positive gain."""
    satisfaction_ndcg10: float
    engagement_ndcg1: float
    engagement_ndcg5: float
    """Mean NDCG@5 with gain = engagement utility, over the requests with a positive utility."""
    engagement_ndcg10: float
    pair_accuracy: float
    """Share of the within-request pairs with known, differing grades that the score orders correctly."""
    user_pair_accuracy: float
    """The same for all pairs of candidates of one user, within and across the user's requests."""
    engagement_pair_accuracy: float
    """Share of the within-request pairs with differing utility that the score orders correctly."""
    gauc: float
    """Impression-weighted mean of per-user AUC; positive: utility > 0."""
    calibration_error: float
    """Expected calibration error of sigma(y_i - y_j) as the probability that utility_i > utility_j, within requests."""
    calibration_gap: float
    """Mean predicted minus observed preference; above 0 if the policy is overconfident."""
    requests: int
    candidates: int


def require_metric(option: str, name: str | None) -> None:
    """
    Raises:
        UserError: there is no ranking metric of this name; None is allowed.
    """
    names = [field.name for field in fields(RankingMetrics)]
    require(name is None or name in names, option, name, f"None, or one of {', '.join(names)}")
