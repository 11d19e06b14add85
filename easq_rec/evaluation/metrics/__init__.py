"""Ranking metrics of held-out requests, with intervals.

- `segments`: items sorted within requests or users, and pair counts, without a loop over requests or users
- `ranking`: NDCG@k, AUC, GAUC, pair accuracy
- `calibration`: pair probabilities of the policy score against observed engagement
- `outcomes`: probabilities and expectations that the main tower predicts against observed outcomes
- `by_request`: all of these as sums by request
- `intervals`: bootstrap over users

The functions of the first five take CPU or CUDA tensors, and compute in float64 on their device.

Shape suffixes:
    R  requests of the batch or of the whole evaluation
    N  candidates of all requests, flat, ordered by request; or their places in an order
    S  segments (requests, or distinct users)
    G  groups of tied items within a segment
    P  requests of one padded chunk
    C  candidates of the longest request of a chunk; I: a tile of them; M: pairs of a tile
    D  discount positions
    K  calibration bins
    O  outcomes
"""

from easq_rec.evaluation.metrics.by_request import ranking_metrics
from easq_rec.evaluation.metrics.calibration import PairCalibration, pair_calibration
from easq_rec.evaluation.metrics.outcomes import outcome_columns, outcome_metrics
from easq_rec.evaluation.metrics.ranking import PairCounts, SegmentAUC, auc, gauc, graded_gain, ndcg, pair_accuracy
from easq_rec.evaluation.ranking_metrics import RankingMetrics

__all__ = [
    "PairCalibration",
    "PairCounts",
    "RankingMetrics",
    "SegmentAUC",
    "auc",
    "gauc",
    "graded_gain",
    "ndcg",
    "outcome_columns",
    "outcome_metrics",
    "pair_accuracy",
    "pair_calibration",
    "ranking_metrics",
]
