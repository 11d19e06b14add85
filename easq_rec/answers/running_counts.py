"""Counts of all answers so far, from which weights of evidence and rewards are computed without keeping the answers.

Legend: A answers, O outcomes, P patterns of outcomes, 2 satisfied and dissatisfied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.answers.class_counts import ClassCounts
from easq_rec.answers.evidence import Expectations, evidence_weights
from easq_rec.answers.reward import ridge_logistic
from easq_rec.config.answer_scale import AnswerScale

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RunningCounts:
    """Satisfied and dissatisfied answers by the outcomes of their candidates. Never modified."""

    outcomes: int
    """O."""
    by_pattern: Mapping[tuple[bool, ...], tuple[int, int]]
    """(satisfied, dissatisfied) answers whose candidate had these outcomes, (O,), and no others."""

    def added(
        self, answer_A: npt.NDArray[np.integer], happened_AO: npt.NDArray[np.bool_], scale: AnswerScale
    ) -> RunningCounts:
        """The counts with further answers; those of neither class are not counted."""
        counts = dict(self.by_pattern)
        of_class_2A = ClassCounts(answer_A, scale).of_class_2A
        pattern_PO, pattern_A = np.unique(happened_AO, axis=0, return_inverse=True)
        pattern_A = pattern_A.reshape(-1)
        for index, pattern_O in enumerate(pattern_PO):
            satisfied, dissatisfied = (int((of & (pattern_A == index)).sum()) for of in of_class_2A)
            key = tuple(map(bool, pattern_O))
            before = counts.get(key, (0, 0))
            counts[key] = (before[0] + satisfied, before[1] + dissatisfied)
        return RunningCounts(outcomes=self.outcomes, by_pattern=counts)

    @property
    def answers_2(self) -> Integers:
        """Number of satisfied and of dissatisfied answers."""
        return self._count_2P.sum(axis=1)

    def evidence(self, *, caution: float, expected: Expectations | None) -> npt.NDArray[np.float32]:
        """Weights of evidence, (O,), as `AnswerEvidence` computes them from the answers themselves."""
        happened_2O = self._count_2P.astype(np.float64) @ self._pattern_PO
        return evidence_weights(self.answers_2.astype(np.float64), happened_2O, caution=caution, expected=expected)

    def reward(self, ridge: float) -> npt.NDArray[np.float32]:
        """Weights of the outcomes in the reward, (O,), as `RewardModel` computes them."""
        if not self.by_pattern:
            return np.zeros(self.outcomes, np.float32)
        return ridge_logistic(self._pattern_PO, self._count_2P, ridge).astype(np.float32)

    @property
    def _pattern_PO(self) -> npt.NDArray[np.float64]:
        return np.array(sorted(self.by_pattern), np.float64).reshape(len(self.by_pattern), self.outcomes)

    @property
    def _count_2P(self) -> Integers:
        counts = [self.by_pattern[pattern] for pattern in sorted(self.by_pattern)]
        return np.array(counts, np.int64).reshape(len(counts), 2).T

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a checkpoint."""
        patterns = sorted(self.by_pattern)
        return {
            "outcomes": self.outcomes,
            "patterns": [[int(happened) for happened in pattern] for pattern in patterns],
            "counts": [list(self.by_pattern[pattern]) for pattern in patterns],
        }

    @staticmethod
    def from_dict(values: Mapping[str, object]) -> RunningCounts:
        """The inverse of `to_dict`."""
        outcomes, patterns, counts = values["outcomes"], values["patterns"], values["counts"]
        assert isinstance(outcomes, int) and isinstance(patterns, list) and isinstance(counts, list)
        pairs = zip(patterns, counts, strict=True)
        return RunningCounts(
            outcomes=outcomes, by_pattern={tuple(map(bool, pattern)): (one, two) for pattern, (one, two) in pairs}
        )
