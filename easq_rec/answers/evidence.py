"""Weights of outcomes as evidence of satisfaction, estimated from the answers so far.

Few impressions are answered, but every impression has outcomes: it was liked or not, followed or not. The strength of
an outcome as evidence is estimated from the answers. Its weight of evidence (Good 1950) is the log
odds ratio of the 2 x 2 table of outcome and answer (satisfied or dissatisfied). Only significant weights are used, so
that few answers, or random answers, give no evidence. A schema may state an expected weight of an outcome: it is used
before there are answers, and averaged with the estimate afterwards, each weighed by its precision.

Legend: A answers in time order, O outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.answers.class_counts import ClassCounts
from easq_rec.config.answer_scale import AnswerScale
from easq_rec.config.losses import Evidence
from easq_rec.config.schema import Outcome

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """Normal priors of weights of evidence."""

    mean_O: Floats
    """Expected weights; NaN for outcomes without an expectation."""
    error: float
    """Standard deviation of all of them."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], config: Evidence) -> Expectations:
        """The expectations of a schema's outcomes."""
        means = [math.nan if one.expected_evidence is None else one.expected_evidence for one in outcomes]
        return cls(mean_O=np.array(means, dtype=np.float64), error=config.expectation_error)


class AnswerEvidence:
    """Weights of evidence from the first answers, for any number of them.

    Args:
        answer_A: answer codes.
        happened_AO: whether the answered candidate had the outcome.
        scale: defines satisfied and dissatisfied answers.
        caution: number of standard errors by which a weight must differ from zero to be used.
        expected: priors of the weights; None: no outcome has one.
    """

    def __init__(
        self,
        answer_A: npt.NDArray[np.integer],
        happened_AO: npt.NDArray[np.bool_],
        *,
        scale: AnswerScale,
        caution: float,
        expected: Expectations | None = None,
    ) -> None:
        self._caution = caution
        self._expected = expected
        self._classes = ClassCounts(answer_A, scale)
        # Positions instead of running counts: memory grows with events, not with answers times outcomes.
        self._happened: list[list[Rows]] = [
            [np.flatnonzero(column_A & of_class_A) for column_A in happened_AO.T]
            for of_class_A in self._classes.of_class_2A
        ]

    def weights(self, admitted: int) -> npt.NDArray[np.float32]:
        """Weights of evidence from the first `admitted` answers, (O,)."""
        answers_2 = np.array(self._classes.among(admitted), dtype=np.float64)
        happened_2O = np.array(
            [[np.searchsorted(positions, admitted) for positions in columns] for columns in self._happened],
            dtype=np.float64,
        )
        return evidence_weights(answers_2, happened_2O, caution=self._caution, expected=self._expected)


def evidence_weights(
    answers_2: Floats, happened_2O: Floats, *, caution: float, expected: Expectations | None
) -> npt.NDArray[np.float32]:
    """Weights of evidence, (O,).

    Args:
        answers_2: numbers of satisfied and of dissatisfied answers.
        happened_2O: how many of their candidates had each outcome.
        caution, expected: as of `AnswerEvidence`.
    """
    ratio_O, precision_O = log_odds_ratios(happened_2O, answers_2[:, None] - happened_2O)
    weight_O = np.where(np.abs(ratio_O) * np.sqrt(precision_O) > caution, ratio_O, 0.0)
    if expected is not None:
        mean_O, precision = expected.mean_O, expected.error**-2
        posterior_O = (ratio_O * precision_O + mean_O * precision) / (precision_O + precision)
        weight_O = np.where(np.isnan(mean_O), weight_O, posterior_O)
    return weight_O.astype(np.float32)


def log_odds_ratios(happened_2O: Floats, not_2O: Floats) -> tuple[Floats, Floats]:
    """(log odds ratios of 2 x 2 tables, (O,), and their precisions, (O,)); 0 without answers of one class.

    A precision is the inverse of a variance, which is Woolf's (1955). Half a count is added to every cell, because an
    empty cell has no logarithm (Haldane 1956, Anscombe 1956). The ratios are not shrunk towards zero: L_evidence
    explains outcomes by scores whose differences grow as the ratios shrink.
    """
    odds_2O = np.log(happened_2O + 0.5) - np.log(not_2O + 0.5)
    variance_O = (1 / (happened_2O + 0.5) + 1 / (not_2O + 0.5)).sum(axis=0)
    # Half a count stands for an empty cell, not for an empty class: its odds would be 1, and every rare outcome would
    # differ from them significantly.
    both_O = ((happened_2O + not_2O) > 0).all(axis=0)
    return np.where(both_O, odds_2O[0] - odds_2O[1], 0.0), np.where(both_O, 1 / variance_O, 0.0)
