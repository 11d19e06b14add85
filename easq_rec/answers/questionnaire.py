"""The questionnaire: the impressions that trigger it, its exposure, and the meaning of its options.

The rule and its defaults are the paper's (arXiv 2601.20215): an impression watched for more than 7 s or more than half
of its length triggers the prompt, which is shown on 0.5% of these impressions.
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
    """An impression watched for longer than this, in seconds, triggers the questionnaire."""
    trigger_progress: float = 0.5
    """An impression watched beyond this share of the video's length also triggers it."""
    exposure: float = 0.005
    """Share of triggered impressions on which the prompt is shown; reported if the log does not record it."""
    answers: AnswerScale = THREE_ANSWERS
    """The answer scale."""
    options: dict[str, int] = field(default_factory=dict)
    """Answer code of each option, as spelled in the log; empty: the names of the answers."""

    def __post_init__(self) -> None:
        require(self.trigger_watch_s >= 0, "questionnaire.trigger_watch_s", self.trigger_watch_s, "0 or more")
        require(self.trigger_progress >= 0, "questionnaire.trigger_progress", self.trigger_progress, "0 or more")
        require(0 <= self.exposure <= 1, "questionnaire.exposure", self.exposure, "between 0 and 1")
        meanings = ", ".join(f"{code} ({name})" for name, code in self.answers.codes.items())
        for option, code in self.options.items():
            require(code in self.answers.codes.values(), f"questionnaire.options.{option}", code, f"one of {meanings}")

    @property
    def codes(self) -> dict[str, int]:
        """Answer code of each option, as spelled in the log."""
        return self.options or self.answers.codes

    def triggered(self, watch_ms: NDArray[Any], duration_ms: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each impression triggers the questionnaire; times in milliseconds."""
        long = watch_ms > self.trigger_watch_s * 1_000
        return np.asarray(long | (watch_ms > self.trigger_progress * duration_ms))
