"""What each source tells about held-out answers.

Shape suffix: A answered impressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.counts import Floats
from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.worth.answered import Answered
from easq_rec.tools.studies.worth.intervals import HeldOutAnswers, Replicated
from easq_rec.tools.studies.worth.past import Past, past_answers
from easq_rec.tools.studies.worth.questions import QUESTIONS, SOURCES, Question, Source
from easq_rec.tools.studies.worth.regression import FOLDS, NOT_FITTED, Folds, predict
from easq_rec.tools.studies.worth.sources import AnswerSources

HELD_OUT = 0.3
"""Share of the labelled answers, or of the users, that is held out."""
EARLY = 0.2
"""Share of the labelled answers, the earliest ones, that are neither fitted nor held out. Less was known before them
than before all others, so weights that fit them do not fit the rest. They do count as earlier answers."""
LEAST = 10
"""Answers of each class that must be fitted, and held out, at least."""
PERCENT = 100.0

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which answers a model is fitted to and which it predicts; all of them are satisfied or dissatisfied."""

    name: str
    fold_A: Folds
    """Fold of each fitted answer: see `easq_rec.tools.studies.worth.regression`."""
    test_A: Mask
    known_A: Mask
    """Answers, of any class, that may count as earlier answers."""
    without_own: bool
    """Whether the answers of the same user are left out of them."""

    @property
    def fit_A(self) -> Mask:
        return self.fold_A != NOT_FITTED


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One source in one split."""

    source: Source
    auc: Replicated
    within: Replicated
    """AUC within users."""
    loss: Replicated
    """Log loss in nats."""
    explained: Replicated
    """How much lower the log loss is than that of the constant, in percent of it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All sources in one split."""

    split: Split
    held_out: int
    """Number of held-out answers."""
    users: int
    """Number of their users."""
    rows: Mapping[tuple[Question, Source], SourceRow]

    def adds(self, question: Question = "before the view") -> Mapping[str, Estimate]:
        """What answers add to behaviour: the differences of `both` and `behaviour alone`, by metric."""
        both, alone = self.rows[question, "both"], self.rows[question, "behaviour alone"]
        return {
            "explained": (both.explained - alone.explained).estimate(self.held_out),
            "auc": (both.auc - alone.auc).estimate(self.held_out),
            "within": (both.within - alone.within).estimate(self.held_out),
            "loss": (both.loss - alone.loss).estimate(self.held_out),
        }


def by_time(answered: Answered) -> Split:
    """The last answers are held out. Fitted, and known to the held-out ones, are those given before the first of them
    was shown. Folds are spans of time.

    The held-out answers are not known to each other. The mean of a user's earlier answers would otherwise depend on the
    order of the same answers that the AUC within users compares.
    """
    cut_ms = _time_after(answered, 1 - HELD_OUT)
    known_A = answered.answered_ms_A < cut_ms
    fit = np.flatnonzero(_late(answered) & known_A)
    fold_A = np.full(len(answered), NOT_FITTED, np.int8)
    fold_A[fit] = np.arange(len(fit)) * FOLDS // max(len(fit), 1)
    return Split(
        name="by time",
        fold_A=fold_A,
        test_A=answered.labelled_A & (answered.request_ms_A >= cut_ms),
        known_A=known_A,
        without_own=False,
    )


def by_user(answered: Answered, *, seed: int = 0) -> Split:
    """Some users are held out: no answer of theirs counts as an earlier answer, and of a fitted user only the answers
    of the others do. So what is measured is what answers tell about people who did not answer. Folds are users."""
    users, place_A = np.unique(answered.user_A, return_inverse=True)
    drawn_U = np.random.default_rng(seed).permutation(len(users))
    test_A = (drawn_U < HELD_OUT * len(users))[place_A]
    late_A = _late(answered)
    return Split(
        name="by user",
        fold_A=np.where(late_A & ~test_A, (drawn_U % FOLDS)[place_A], NOT_FITTED).astype(np.int8),
        test_A=late_A & test_A,
        known_A=~test_A,
        without_own=True,
    )


def _late(answered: Answered) -> Mask:
    """The labelled answers without the early ones."""
    return answered.labelled_A & (answered.request_ms_A >= _time_after(answered, EARLY))


def _time_after(answered: Answered, share: float) -> int:
    """Time of the labelled answer that comes after this share of them."""
    times_ms = answered.request_ms_A[answered.labelled_A]
    return int(times_ms[min(int(share * len(times_ms)), len(times_ms) - 1)])


def enough(answered: Answered, split: Split) -> bool:
    """Whether both classes have enough answers, and enough users, for a model and an interval."""
    return (
        learnable(answered, split.fit_A)
        and learnable(answered, split.test_A)
        and len(np.unique(answered.user_A[split.test_A])) >= LEAST
    )


def learnable(answered: Answered, rows_A: Mask) -> bool:
    """Whether both classes have enough of these answers."""
    label_A = answered.value_A[rows_A]
    return bool(min(label_A.sum(), (1 - label_A).sum()) >= LEAST)


def measure(answered: Answered, behaviour: Mapping[tuple[str, str], Past], split: Split, *, minutes: int) -> Measured:
    """Fits every source and measures it on the held-out answers.

    Args:
        minutes: length of the buckets of time.
    """
    answers = past_answers(answered, split.known_A, minutes=minutes, without_own=split.without_own)
    sources = AnswerSources(answered, behaviour, answers, split.fit_A)
    held_out = HeldOutAnswers(answered.user_A[split.test_A], answered.value_A[split.test_A])
    rows: dict[tuple[Question, Source], SourceRow] = {}
    for question in QUESTIONS:
        constant = held_out.loss(predicted(answered, sources.numbers("constant", question), split))
        for source in SOURCES:
            known = rows.get(("before the view", source))
            if known is not None and source in ("constant", "answers alone"):
                rows[question, source] = known
                continue
            found_A = predicted(answered, sources.numbers(source, question), split)
            loss = held_out.loss(found_A)
            rows[question, source] = SourceRow(
                source=source,
                auc=held_out.auc(found_A),
                within=held_out.within_users(found_A),
                loss=loss,
                explained=explained(loss, constant),
            )
    return Measured(split=split, held_out=len(held_out), users=len(held_out.user_U), rows=rows)


def predicted(answered: Answered, number_AF: Floats, split: Split) -> Floats:
    """Predictions of the held-out answers."""
    rows_A = split.fit_A | split.test_A
    found = predict(number_AF[rows_A], answered.value_A[rows_A], fold_A=split.fold_A[rows_A])
    return found[split.test_A[rows_A]]


def explained(loss: Replicated, constant: Replicated) -> Replicated:
    """How much lower a log loss is than that of the constant, in percent of it."""
    return (constant - loss).over(constant).times(PERCENT)
