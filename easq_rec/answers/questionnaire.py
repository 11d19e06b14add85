"""The questionnaire: whom it may ask, how rarely it does, and what its options mean.

The rule and its defaults are the paper's (arXiv 2601.20215): the prompt may follow an impression that was watched for
more than 7 s or beyond half of its length, and is shown on 0.5% of those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config.schema import require

ANSWERS = ("dissatisfied", "uncertain", "satisfied")
"""Meaning of the answer codes 0, 1, 2."""


@dataclass(frozen=True, kw_only=True)
class Questionnaire:
    """Trigger rule, exposure and options."""

    trigger_watch_s: float = 7.0
    """Watched for longer than this, in seconds, an impression may be asked about."""
    trigger_progress: float = 0.5
    """So it may beyond this share of the video's length."""
    exposure: float = 0.005
    """Share of triggered impressions on which the prompt is shown; reported where the log does not say what was."""
    options: dict[str, int] = field(default_factory=lambda: {name: code for code, name in enumerate(ANSWERS)})
    """Answer code of every option, as the log spells it: 0 dissatisfied, 1 uncertain, 2 satisfied."""

    def __post_init__(self) -> None:
        require(self.trigger_watch_s >= 0, "questionnaire.trigger_watch_s", self.trigger_watch_s, "0 or more")
        require(self.trigger_progress >= 0, "questionnaire.trigger_progress", self.trigger_progress, "0 or more")
        require(0 <= self.exposure <= 1, "questionnaire.exposure", self.exposure, "between 0 and 1")
        require(bool(self.options), "questionnaire.options", self.options, "at least one option")
        for option, code in self.options.items():
            require(code in (0, 1, 2), f"questionnaire.options.{option}", code, "0 (dissatisfied), 1 or 2 (satisfied)")

    def triggered(self, watch_ms: NDArray[Any], duration_ms: NDArray[Any]) -> NDArray[np.bool_]:
        """Which impressions may be asked about; times in milliseconds."""
        long = watch_ms > self.trigger_watch_s * 1_000
        return np.asarray(long | (watch_ms > self.trigger_progress * duration_ms))
