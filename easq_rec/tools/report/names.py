"""Labels of recorded metrics."""

from __future__ import annotations

from collections.abc import Iterable

from easq_rec.config import Losses

CUTOFFS = (1, 5, 10)

HELD_OUT = {
    **{f"satisfaction_ndcg{k}": f"satisfaction NDCG@{k}" for k in CUTOFFS},
    "pair_accuracy": "pair accuracy",
    "user_pair_accuracy": "pair accuracy of a user",
    **{f"engagement_ndcg{k}": f"engagement NDCG@{k}" for k in CUTOFFS},
    "engagement_pair_accuracy": "engagement pair accuracy",
    "gauc": "GAUC",
    "answer_auc": "answer AUC",
    "answer_gauc": "answer GAUC",
    **{f"answer_ndcg{k}": f"answer NDCG@{k}" for k in CUTOFFS},
    "calibration_error": "pair calibration error",
    "calibration_gap": "pair calibration gap",
}
"""Equal to the labels of `easq_rec.evaluation.results`, which need torch. A test compares them."""

OUTCOME = {
    "outcome_calibration_error": "calibration error",
    "outcome_log_loss": "log loss",
    "outcome_ratio": "predicted / observed",
}
"""Metrics of each predicted outcome, whose name follows. Equal to those of `easq_rec.evaluation.results`."""

ONLINE = {
    "stay_s": "app stay time, s per user-day",
    "watch_s": "watch time, s per user-day",
    "lt7": "LT7, days active of 7",
    "active": "share of users in the app",
}
"""Metrics of a simulated online test."""

TRAINING = {
    **{f"loss_{name}": loss.label for name, loss in Losses().terms.items()},
    "divergence": "KL of policy from reference, nats",
    "policy_std": "standard deviation of the policy score",
    "reference_std": "standard deviation of the reference score",
    **{f"pairs_{name}": f"pairs of {loss.label} in a step" for name, loss in Losses().terms.items()},
    "pairs_answered": "answered pairs in a step",
    "replay_admitted": "answers admitted",
    "replay_rarer_class": "admitted answers of the rarer class",
    "replay_mean": "replays of an answer, mean",
    "replay_max": "replays of an answer, maximum",
    "replay_age_hours": "age of replayed answers, hours",
    "quarantined_rows": "rows in quarantine",
    "learning_rate": "learning rate",
    "impressions_per_second": "impressions per second",
}

HOURLY = {"auc": "AUC", "log_loss": "log loss", "ratio": "predicted / observed", "rate": "rate"}
"""Metrics of each outcome in an hour of a stream, whose name follows."""

_PERIODS = {"train": "trained", "holdout": "held-out"}
_ANSWERS = {
    "policy_accuracy": "pairs that the policy orders correctly",
    "reference_accuracy": "pairs that the reference orders correctly",
    "margin": "DPO margin",
    "policy_std": "standard deviation of the policy score",
    "reference_std": "standard deviation of the reference score",
    "pairs": "pairs",
}
ANSWERS = {
    f"answers_{period}_{name}": f"{label}, {shown} answers"
    for period, shown in _PERIODS.items()
    for name, label in _ANSWERS.items()
}
"""The trainer's diagnostics on answers that it was trained on, and on held-out ones."""

_LABELS = {**HELD_OUT, **TRAINING, **ANSWERS, **ONLINE}


def label(name: str) -> str:
    """The label of a metric; an unknown metric keeps its name."""
    for kind, shown in OUTCOME.items():
        if name.startswith(f"{kind}_"):
            return f"{name.removeprefix(f'{kind}_')}: {shown}"
    return _LABELS.get(name) or name.replace("_", " ")


def hourly_label(name: str) -> str:
    """The label of a metric of an hour of a stream."""
    for kind, shown in HOURLY.items():
        if name.startswith(f"{kind}_"):
            return f"{name.removeprefix(f'{kind}_')}: {shown}"
    return label(name)


def in_order(names: Iterable[str]) -> list[str]:
    """The metrics of held-out requests among some names: those of every run first, then outcome by outcome."""
    found = list(names)
    outcomes = [name.removeprefix("outcome_ratio_") for name in found if name.startswith("outcome_ratio_")]
    ours = [*HELD_OUT, *(f"{kind}_{outcome}" for outcome in outcomes for kind in OUTCOME)]
    return [name for name in ours if name in found]
