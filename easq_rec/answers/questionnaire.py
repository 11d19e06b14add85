"""The questionnaire: which impressions it may follow, how often it is shown, and what its options mean.

The rule and its defaults are the paper's (arXiv 2601.20215): the prompt may follow an impression that was watched for
more than 7 s or more than half of its length, and is shown on 0.5% of those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.answer_scale import THREE_ANSWERS, AnswerScale
from easq_rec.config.schema import require


@dataclass(frozen=True, kw_only=True)
class Questionnaire:
    """Trigger rule, exposure, answers and options."""

    trigger_watch_s: float = 7.0
    """An impression that was watched for longer than this, in seconds, may be asked about."""
    trigger_progress: float = 0.5
    """So may an impression that was watched beyond this share of the video's length."""
    exposure: float = 0.005
    """Share of triggered impressions on which the prompt is shown; reported where the log does not record it."""
    answers: AnswerScale = THREE_ANSWERS
    """The scale of the answers."""
    options: dict[str, int] = field(default_factory=dict)
    """Answer code of every option, as the log spells it; none: the names of the answers."""

    def __post_init__(self) -> None:
        require(self.trigger_watch_s >= 0, "questionnaire.trigger_watch_s", self.trigger_watch_s, "0 or more")
        require(self.trigger_progress >= 0, "questionnaire.trigger_progress", self.trigger_progress, "0 or more")
        require(0 <= self.exposure <= 1, "questionnaire.exposure", self.exposure, "between 0 and 1")
        meanings = ", ".join(f"{code} ({name})" for name, code in self.answers.codes.items())
        for option, code in self.options.items():
            require(code in self.answers.codes.values(), f"questionnaire.options.{option}", code, f"one of {meanings}")

    @property
    def codes(self) -> dict[str, int]:
        """Answer code of every option, as the log spells it."""
        return self.options or self.answers.codes

    def triggered(self, watch_ms: NDArray[Any], duration_ms: NDArray[Any]) -> NDArray[np.bool_]:
        """Which impressions may be asked about; times in milliseconds."""
        long = watch_ms > self.trigger_watch_s * 1_000
        return np.asarray(long | (watch_ms > self.trigger_progress * duration_ms))
