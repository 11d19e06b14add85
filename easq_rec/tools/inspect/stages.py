"""The questionnaire's stages: impressions, triggered, shown, answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.data.columns import Array
from easq_rec.tools.inspect.sketch import Quantiles

PATHS = tuple(f"candidates.{name}" for name in ("watch_ms", "duration_ms", "shown", "answer", "answered_at_ms"))


@dataclass(kw_only=True)
class Stages:
    """Counted where the columns that a stage needs are there."""

    scale: AnswerScale = THREE_ANSWERS
    triggered: int | None = None
    """Impressions that the questionnaire's rule allows to ask about; None: watch_ms or duration_ms is not there."""
    shown: int | None = None
    """None: there is no column `shown`."""
    answers: list[int] | None = None
    """By answer of the scale, the worst first; None: there is no column `answer`."""
    other_answers: int = 0
    """Codes beyond these."""
    delays: Quantiles = field(default_factory=Quantiles)
    """From a request to its answers, in milliseconds."""
    early: int = 0
    """Answers before their request, or without a time."""

    def add(self, columns: dict[str, pa.Array], request_ms: Array | None) -> None:
        """Takes in a row group.

        Args:
            columns: those of `PATHS` that are there, with an entry per candidate.
            request_ms: the request's timestamp of every candidate; None: some have none.
        """
        watch, duration, shown, answer, answered_at = (columns.get(path) for path in PATHS)
        if watch is not None and duration is not None:
            # A null becomes NaN, which is greater than nothing.
            triggered = Questionnaire().triggered(_numbers(watch), _numbers(duration))
            self.triggered = (self.triggered or 0) + int(np.count_nonzero(triggered))
        if shown is not None:
            self.shown = (self.shown or 0) + int(np.count_nonzero(_numbers(shown.drop_null())))
        if answer is not None and pa.types.is_integer(answer.type):
            self._add_answers(answer, answered_at, request_ms)

    def _add_answers(self, answer: pa.Array, answered_at: pa.Array | None, request_ms: Array | None) -> None:
        answered = answer.is_valid().to_numpy(zero_copy_only=False)
        codes = answer.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        known = codes[(codes >= self.scale.first) & (codes <= self.scale.last)]
        counts = np.bincount(known - self.scale.first, minlength=len(self.scale.names))
        self.answers = [int(a + b) for a, b in zip(self.answers or [0] * len(counts), counts, strict=True)]
        self.other_answers += len(codes) - len(known)
        if answered_at is None or request_ms is None or not pa.types.is_integer(answered_at.type):
            return
        timed = answered_at.is_valid().to_numpy(zero_copy_only=False)[answered]
        delay = _numbers(answered_at.fill_null(0))[answered].astype(np.int64) - request_ms[answered]
        self.early += int(np.count_nonzero(~timed | (delay < 0)))
        self.delays.add(delay[timed & (delay >= 0)])

    def summary(self, impressions: int) -> dict[str, Any]:
        """As plain values, for report.json."""
        return {
            "impressions": impressions,
            "triggered": self.triggered,
            "shown": self.shown,
            "answers": None if self.answers is None else dict(zip(self.scale.names, self.answers, strict=True)),
            "other_answers": self.other_answers,
            "early_answers": self.early,
            "delay_ms_median": self.delays.quantile(0.5),
            "delay_ms_p95": self.delays.quantile(0.95),
        }


def _numbers(array: pa.Array) -> Array:
    return array.to_numpy(zero_copy_only=False)
