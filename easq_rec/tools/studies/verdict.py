"""The verdict of a study: a claim with its thresholds, the measurements, and whether the claim holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from easq_rec.evaluation.mean_interval import Estimate
from easq_rec.tools.studies.base import Budget
from easq_rec.tools.studies.comparison import estimate_values

Outcome = Literal["holds", "fails", "undecided"]

SMALL = "The budget is small: this tests the machinery and says nothing about the method."


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number that a claim depends on."""

    what: str
    measured: Estimate
    wanted: Literal["above", "below", "around"]
    """around: the interval must include the threshold."""
    threshold: float
    """In the unit of `measured`."""
    unit: str = "%"

    @property
    def outcome(self) -> Outcome:
        """undecided: the interval crosses the threshold, or is unknown for `around`."""
        if self.wanted == "around":
            if not math.isfinite(self.measured.high - self.measured.low):
                return "undecided"
            return "holds" if self.measured.low <= self.threshold <= self.measured.high else "fails"
        above, below = self.measured.low > self.threshold, self.measured.high < self.threshold
        if not (above or below):
            return "undecided"
        return "holds" if above == (self.wanted == "above") else "fails"

    def text(self) -> str:
        measured = self.measured.text(self.unit, 1 if self.unit == "%" else 2)
        return f"{self.what}: {measured}, claimed {self.wanted} {self.threshold:+g}{self.unit}: {self.outcome}"

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "what": self.what,
            "measured": estimate_values(self.measured),
            "wanted": self.wanted,
            "threshold": self.threshold,
            "unit": self.unit.strip(),
            "outcome": self.outcome,
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, and whether it holds."""

    claim: str
    """A sentence that names its threshold."""
    checks: Sequence[Check]
    """All checks must hold."""
    budget: Budget

    @property
    def outcome(self) -> Outcome:
        outcomes = [check.outcome for check in self.checks]
        if "fails" in outcomes:
            return "fails"
        return "holds" if outcomes and set(outcomes) == {"holds"} else "undecided"

    @property
    def remark(self) -> str | None:
        """Caveat of the outcome, if any."""
        return SMALL if self.budget == "small" else None

    def text(self) -> str:
        """A sentence, the remark, and one line per check."""
        first = f"{self.outcome}: {self.claim}" + (f" ({self.remark})" if self.remark else "")
        return "\n".join([first, *(f"  {check.text()}" for check in self.checks)])

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "claim": self.claim,
            "outcome": self.outcome,
            "budget": self.budget,
            "remark": self.remark,
            "checks": [check.values() for check in self.checks],
        }
