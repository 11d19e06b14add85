"""Calibration of the predicted outcomes: are the probabilities of the main tower right?

Candidates are put into bins of equal mass by their prediction, separately for each outcome. A bin's mean prediction is
compared with what happened to its candidates. All of this is kept as sums by request and bin, so that intervals can
draw users and need neither the model nor the candidates.

A log that keeps only a share of the negatives is corrected by weights: a negative that was kept stands for
1 / `Outcome.negatives_kept` candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from easq_rec.config.schema import Outcome
from easq_rec.evaluation.metrics.segments import request_of
from easq_rec.losses.pointwise import outcome_losses
from easq_rec.model.utility import PredictedOutcomes

OUTCOME_BINS = 10
"""Bins of equal mass for each outcome."""
PREDICTED, OBSERVED, WEIGHT, LOSS = (f"outcome_{what}_" for what in ("predicted", "observed", "weight", "loss"))
"""Prefixes of the columns by request; the name of the outcome follows. All but the loss are by bin as well."""
KINDS = ("outcome_calibration_error", "outcome_log_loss", "outcome_ratio")
"""Metrics of an outcome; its name follows after an underscore."""


def outcome_columns(
    logit_NO: Tensor, outcome_NO: Tensor, lengths_R: Tensor, outcomes: Sequence[Outcome], *, thinned: bool = True
) -> dict[str, Tensor]:
    """Columns that the calibration of each outcome sums: (R,) for the loss, (R, K) for the others. float64.

    Args:
        logit_NO: log odds of a binary outcome, logarithm of the expectation of an amount.
        outcome_NO: what happened: 0 or 1, or an amount of 0 or more.
        lengths_R: candidates per request (int64; 0 allowed).
        thinned: the log lacks the negatives that `Outcome.negatives_kept` says; False: it has all.

    Raises:
        ValueError: shapes that disagree, or NaN logits.
    """
    columns: dict[str, Tensor] = {}
    for o, outcome in enumerate(outcomes):
        logit_N, observed_N = logit_NO[:, o].double(), outcome_NO[:, o].double()
        request_N = request_of(lengths_R, logit_N=logit_N, outcome_N=observed_N)
        if unknown := int(logit_N.isnan().count_nonzero()):
            raise ValueError(f"outcome {outcome.name}: {unknown} of {logit_N.numel()} predictions are NaN")
        predicted_N, amount = values(logit_N, outcome), torch.tensor(outcome.kind == "amount", device=logit_N.device)
        weight_N = weights(observed_N, outcome) if thinned else torch.ones_like(observed_N)
        requests = lengths_R.numel()
        cell_N = request_N * OUTCOME_BINS + bins_of(predicted_N, OUTCOME_BINS)
        for prefix, value_N in ((PREDICTED, predicted_N), (OBSERVED, observed_N), (WEIGHT, None)):
            added_N = weight_N if value_N is None else weight_N * value_N
            sums = added_N.new_zeros(requests * OUTCOME_BINS).index_add_(0, cell_N, added_N)
            columns[f"{prefix}{outcome.name}"] = sums.view(requests, OUTCOME_BINS)
        if outcome.kind == "binary":
            loss_N = weight_N * outcome_losses(logit_N, observed_N, amount)
            columns[f"{LOSS}{outcome.name}"] = loss_N.new_zeros(requests).index_add_(0, request_N, loss_N)
    return columns


def outcome_metrics(columns: Mapping[str, Tensor]) -> dict[str, float]:
    """Every metric of every outcome among the columns of `outcome_columns`, by name. Undefined ones are NaN."""
    found: dict[str, float] = {}
    for name in outcome_names(columns):
        predicted_K, observed_K, weight_K = (
            columns[f"{prefix}{name}"].sum(0) for prefix in (PREDICTED, OBSERVED, WEIGHT)
        )
        values = {"outcome_calibration_error": (predicted_K - observed_K).abs().sum() / weight_K.sum()}
        if f"{LOSS}{name}" in columns:
            values["outcome_log_loss"] = columns[f"{LOSS}{name}"].sum() / weight_K.sum()
        values["outcome_ratio"] = predicted_K.sum() / observed_K.sum()
        found |= {f"{kind}_{name}": float(value) for kind, value in values.items()}
    return found


def outcome_names(columns: Iterable[str]) -> list[str]:
    """The outcomes that have columns."""
    return [name.removeprefix(WEIGHT) for name in columns if name.startswith(WEIGHT)]


def values(logit_N: Tensor, outcome: Outcome) -> Tensor:
    """Probability of a binary outcome, or expectation of an amount, (N,)."""
    amount_O = torch.tensor([outcome.kind == "amount"], device=logit_N.device)
    return PredictedOutcomes(logit_NO=logit_N[:, None], amount_O=amount_O).values()[:, 0]


def weights(outcome_N: Tensor, outcome: Outcome) -> Tensor:
    """How many candidates of the whole log each candidate of a thinned log stands for, (N,), float64."""
    one_N = torch.ones_like(outcome_N, dtype=torch.float64)
    return one_N.masked_fill_(outcome_N <= 0, 1 / outcome.negatives_kept)


def bins_of(value_N: Tensor, count: int) -> Tensor:
    """The bin of each value among `count` bins with about equally many values, (N,) int64.

    The edges are quantiles, interpolated linearly. Equal values share a bin, so some bins may be empty. A value at an
    edge belongs to the lower bin, as in scikit-learn's `calibration_curve`.
    """
    if not value_N.numel():
        return torch.zeros(0, dtype=torch.int64, device=value_N.device)
    # torch.quantile takes at most 2^24 values.
    sorted_N = value_N.sort().values
    place_K = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=value_N.device)[1:-1] * (len(sorted_N) - 1)
    low_K = place_K.floor().long()
    high_K = (low_K + 1).clamp_(max=len(sorted_N) - 1)
    edge_K = torch.lerp(sorted_N[low_K], sorted_N[high_K], (place_K - low_K).to(sorted_N.dtype))
    return torch.bucketize(value_N, edge_K)
