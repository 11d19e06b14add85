"""Evaluation of a ranker that learns continuously: every request is scored before it is learned from.

The training step scores its requests before it changes the model, so this evaluation costs no forward pass (progressive
validation, Blum et al. 1999). Metrics are kept by hour of the requests as sums, which can be added over steps and
ranks, and survive a restart in the checkpoint.

Legend: R requests, N candidates, O outcomes, B bins of predictions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from easq_rec.config.schema import Outcome
from easq_rec.data.stream.held_answers import AdmittedAnswers
from easq_rec.evaluation.metrics.by_request import request_columns

HOUR_MS = 3_600_000
BINS = 512
"""Bins of the predicted log odds: the AUC of an hour is exact but for ties within a bin."""
LARGEST = 12.0
"""Log odds at the outer edges of the bins."""
NDCG = ("engagement_ndcg5", "engagement_ndcg10")
PAIRS = ("engagement_pairs_correct", "engagement_pairs")

Sums = dict[str, npt.NDArray[np.float64]]
"""Sums by name. They can be added."""


@dataclass(frozen=True, kw_only=True)
class ScoredStep:
    """Requests of a step with their scores before the step, on the CPU."""

    timestamp_ms_R: Tensor
    user_R: Tensor
    lengths_R: Tensor
    served_N: Tensor
    """Policy score."""
    outcome_NO: Tensor
    logit_NO: Tensor | None
    """Log odds of binary outcomes, logarithms of expected amounts; None: the model predicts no outcomes."""


class HourlySums:
    """Metrics of each hour that is not reported yet, as sums over the steps of one rank.

    Args:
        buffered: steps whose sums are computed together, which is much cheaper than one by one.
    """

    def __init__(self, outcomes: Sequence[Outcome], *, buffered: int = 16) -> None:
        self._outcomes = outcomes
        self._utility_O = torch.tensor([outcome.weight for outcome in outcomes])
        self._buffered = buffered
        self._steps: list[ScoredStep] = []
        self._sums: dict[int, Sums] = {}
        self._reported = -1

    def add(self, step: ScoredStep) -> None:
        """Takes over a step."""
        self._steps.append(step)
        if len(self._steps) >= self._buffered:
            self._compute()

    def _compute(self) -> None:
        """Turns the buffered steps into sums."""
        steps, self._steps = self._steps, []
        if not steps or not any(step.lengths_R.numel() for step in steps):
            return
        hour_R = torch.cat([step.timestamp_ms_R for step in steps]).div(HOUR_MS, rounding_mode="floor")
        # Late requests of a reported hour count as those of the hour that follows.
        hour_R = hour_R.clamp(min=self._reported + 1)
        lengths_R, served_N = (torch.cat([getattr(s, name) for s in steps]) for name in ("lengths_R", "served_N"))
        outcome_NO = torch.cat([step.outcome_NO for step in steps])
        utility_N = (outcome_NO.nan_to_num() @ self._utility_O).clamp(min=0)
        columns = request_columns(
            served_N,
            torch.full_like(served_N, torch.nan),
            utility_N,
            lengths_R,
            torch.cat([step.user_R for step in steps]),
        )
        hour_N = hour_R.repeat_interleave(lengths_R)
        logits = [step.logit_NO for step in steps]
        logit_NO = torch.cat([one for one in logits if one is not None]) if logits[0] is not None else None
        for hour in hour_R.unique().tolist():
            of_hour_R, of_hour_N = hour_R == hour, hour_N == hour
            sums: Sums = {"requests": _sum(of_hour_R), "candidates": _sum(lengths_R[of_hour_R])}
            for name in NDCG:
                value_R = columns[name][of_hour_R]
                sums[name], sums[f"{name}_requests"] = _sum(value_R.nan_to_num()), _sum(~value_R.isnan())
            sums |= {name: _sum(columns[name][of_hour_R]) for name in PAIRS}
            for index, outcome in enumerate(self._outcomes):
                logit_N = logit_NO[of_hour_N, index] if logit_NO is not None else None
                sums |= _outcome_sums(outcome, outcome_NO[of_hour_N, index], logit_N)
            self._sums[hour] = added(self._sums.get(hour, {}), sums)

    def add_answers(self, answers: AdmittedAnswers, score_A: npt.NDArray[np.float64], *, counts: bool) -> None:
        """Takes over answers, with the scores of their candidates.

        Args:
            score_A: NaN: another rank has scored the candidate, or nobody remembers.
            counts: whether this rank counts the answers. Only one rank does.
        """
        hour_A = np.maximum(answers.time_ms_A // HOUR_MS, self._reported + 1)
        for hour in np.unique(hour_A).tolist():
            of_hour_A = hour_A == hour
            known_A = of_hour_A & ~np.isnan(score_A)
            sums: Sums = {
                "answers": np.asarray(float(of_hour_A.sum() if counts else 0)),
                "answers_scored": np.asarray(float(known_A.sum())),
            }
            for suffix, code in (("positive", 1), ("negative", 0)):
                chosen_A = torch.from_numpy(score_A[known_A & (answers.satisfied_A == code)])
                sums[f"answers_{suffix}_B"] = torch.bincount(_bins(chosen_A), minlength=BINS).double().numpy()
            self._sums[hour] = added(self._sums.get(hour, {}), sums)

    def ended(self, clock_ms: int) -> dict[int, Sums]:
        """Removes and returns the hours that ended by the clock, by the time of their beginning in milliseconds."""
        self._compute()
        current = clock_ms // HOUR_MS
        ended = {hour * HOUR_MS: self._sums.pop(hour) for hour in sorted(self._sums) if hour < current}
        self._reported = max(self._reported, current - 1)
        return ended

    def may_end(self, clock_ms: int) -> bool:
        """Whether an hour has ended since the last call of `ended`. Equal on all ranks."""
        return clock_ms // HOUR_MS - 1 > self._reported

    def open_hours(self) -> dict[int, Sums]:
        """The sums of the hours that have not ended, which stay."""
        self._compute()
        return {hour * HOUR_MS: sums for hour, sums in self._sums.items()}

    def restore(self, hours: Mapping[int, Sums], clock_ms: int) -> None:
        """Continues with sums of `open_hours`."""
        self._reported = clock_ms // HOUR_MS - 1
        self._sums = {begin // HOUR_MS: dict(sums) for begin, sums in hours.items()}


def _sum(values: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(values.double().sum())


def _outcome_sums(outcome: Outcome, observed_N: Tensor, logit_N: Tensor | None) -> Sums:
    """Sums of one outcome; candidates of which it is unknown are left out."""
    known_N = ~observed_N.isnan()
    observed_N, name = observed_N[known_N].double(), outcome.name
    sums = {f"{name}_known": _sum(known_N), f"{name}_observed": _sum(observed_N)}
    if logit_N is None:
        return sums
    logit_N = logit_N[known_N].double()
    if outcome.kind == "amount":
        return sums | {f"{name}_predicted": _sum(logit_N.exp())}
    sums[f"{name}_predicted"] = _sum(logit_N.sigmoid())
    sums[f"{name}_loss"] = _sum(binary_cross_entropy_with_logits(logit_N, observed_N, reduction="none"))
    place_N = _bins(logit_N)
    for suffix, chosen_N in (("positive", observed_N > 0), ("negative", observed_N <= 0)):
        sums[f"{name}_{suffix}_B"] = torch.bincount(place_N[chosen_N], minlength=BINS).double().numpy()
    return sums


def _bins(score_N: Tensor) -> Tensor:
    """The bin of each log odds."""
    return ((score_N.clamp(-LARGEST, LARGEST) + LARGEST) * ((BINS - 1) / (2 * LARGEST))).round().long()


def added(one: Sums, other: Sums) -> Sums:
    """The sums of two parts."""
    nothing = np.zeros(())
    return {name: one.get(name, nothing) + other.get(name, nothing) for name in {**one, **other}}


def merged(parts: Iterable[Mapping[int, Sums]]) -> dict[int, Sums]:
    """The hours of several ranks, oldest first."""
    hours: dict[int, Sums] = {}
    for part in parts:
        for begin, sums in part.items():
            hours[begin] = added(hours.get(begin, {}), sums)
    return dict(sorted(hours.items()))


def metrics_of(sums: Sums, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The metrics of an hour. Undefined ones are NaN.

    `auc_NAME`, `log_loss_NAME` and `ratio_NAME` (predicted by observed) of each outcome; NDCG and the share of pairs of
    candidates of a request that the served score orders as their utility does; `auc_answers`, how well the served score
    tells satisfied from dissatisfied answers, of those whose candidates' scores are remembered.
    """
    nothing = np.zeros(())
    found = {name: float(sums.get(name, nothing)) for name in ("requests", "candidates")}
    for name in NDCG:
        found[name] = _ratio(sums.get(name, nothing), sums.get(f"{name}_requests", nothing))
    found["engagement_pair_accuracy"] = _ratio(sums.get(PAIRS[0], nothing), sums.get(PAIRS[1], nothing))
    if "answers" in sums:
        found |= {name: float(sums[name]) for name in ("answers", "answers_scored")}
        found["auc_answers"] = binned_auc(sums["answers_positive_B"], sums["answers_negative_B"])
    for outcome in outcomes:
        name = outcome.name
        if f"{name}_known" not in sums:
            continue
        found[f"rate_{name}"] = _ratio(sums[f"{name}_observed"], sums[f"{name}_known"])
        if f"{name}_predicted" in sums:
            found[f"ratio_{name}"] = _ratio(sums[f"{name}_predicted"], sums[f"{name}_observed"])
        if f"{name}_loss" in sums:
            found[f"log_loss_{name}"] = _ratio(sums[f"{name}_loss"], sums[f"{name}_known"])
            found[f"auc_{name}"] = binned_auc(sums[f"{name}_positive_B"], sums[f"{name}_negative_B"])
    return found


def metric_names(outcomes: Sequence[Outcome], *, answers: bool) -> tuple[str, ...]:
    """The names of the metrics of an hour, if the model predicts outcomes.

    Args:
        answers: whether the run reads answers.
    """
    step = ScoredStep(
        timestamp_ms_R=torch.zeros(1, dtype=torch.int64),
        user_R=torch.zeros(1, dtype=torch.int64),
        lengths_R=torch.ones(1, dtype=torch.int64),
        served_N=torch.zeros(1),
        outcome_NO=torch.zeros(1, len(outcomes)),
        logit_NO=torch.zeros(1, len(outcomes)),
    )
    hours = HourlySums(outcomes)
    hours.add(step)
    if answers:
        one, score = np.ones(1, np.int64), np.zeros(1)
        asked = AdmittedAnswers(request_id_A=one, item_A=one, time_ms_A=one, satisfied_A=one.astype(np.int8))
        hours.add_answers(asked, score, counts=True)
    return tuple(metrics_of(hours.ended(HOUR_MS)[0], outcomes))


def binned_auc(positive_B: npt.NDArray[np.float64], negative_B: npt.NDArray[np.float64]) -> float:
    """Area under the ROC curve from counts by bin of the score, ascending; a tie within a bin counts half."""
    below_B = np.cumsum(negative_B) - negative_B
    pairs = positive_B.sum() * negative_B.sum()
    return float((positive_B * (below_B + 0.5 * negative_B)).sum() / pairs) if pairs else math.nan


def _ratio(top: npt.NDArray[np.float64], bottom: npt.NDArray[np.float64]) -> float:
    return float(top) / float(bottom) if float(bottom) else math.nan


def to_values(hours: Mapping[int, Sums]) -> dict[str, dict[str, object]]:
    """Sums as plain values, for a checkpoint."""
    return {str(begin): {name: value.tolist() for name, value in sums.items()} for begin, sums in hours.items()}


def from_values(values: Mapping[str, Mapping[str, object]]) -> dict[int, Sums]:
    """The inverse of `to_values`."""
    return {
        int(begin): {name: np.asarray(value, np.float64) for name, value in sums.items()}
        for begin, sums in values.items()
    }


@dataclass(frozen=True, kw_only=True)
class MetricBound:
    """METRIC>BOUND or METRIC<BOUND."""

    metric: str
    above: bool
    bound: float

    @staticmethod
    def of(text: str) -> MetricBound | None:
        """The condition of a text; None: it is none."""
        for mark in (">", "<"):
            metric, found, bound = text.partition(mark)
            try:
                if found and metric.strip():
                    return MetricBound(metric=metric.strip(), above=mark == ">", bound=float(bound))
            except ValueError:
                return None
        return None

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the metric is there, defined, and beyond the bound."""
        value = metrics.get(self.metric, math.nan)
        return value > self.bound if self.above else value < self.bound
