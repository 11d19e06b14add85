"""Labels of recorded metrics."""

from __future__ import annotations

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
    "calibration_error": "calibration error",
    "calibration_gap": "calibration gap",
}
"""Equal to the labels of `easq_rec.evaluation.results`, which need torch. A test compares them."""

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
    "replay_mean": "replays of an answer, mean",
    "replay_max": "replays of an answer, maximum",
    "replay_age_hours": "age of replayed answers, hours",
    "quarantined_rows": "rows in quarantine",
    "learning_rate": "learning rate",
    "impressions_per_second": "impressions per second",
}

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
    return _LABELS.get(name) or name.replace("_", " ")
