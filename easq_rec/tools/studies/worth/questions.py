"""The names of the sources and of the questions of study `worth`. No torch import: reports read them."""

from __future__ import annotations

from typing import Literal

Source = Literal["constant", "behaviour alone", "answers alone", "both"]
SOURCES: tuple[Source, ...] = ("constant", "behaviour alone", "answers alone", "both")
Question = Literal["before the view", "after the view"]
QUESTIONS: tuple[Question, ...] = ("before the view", "after the view")
"""before the view: what a ranker knows when it serves. after the view: also the outcomes of the impression itself."""
CURVES: tuple[Source, ...] = ("behaviour alone", "answers alone", "both")
"""Sources with a learning curve."""
