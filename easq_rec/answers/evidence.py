"""What behaviour tells of satisfaction, by the answers so far.

Nobody answers for most of what is watched, but everybody likes, follows or does not. How much such an outcome speaks
for satisfaction is not assumed: it is counted among the answers. Its weight of evidence (Good 1950) is how much more
likely it goes along with `satisfied` than with `dissatisfied`, less how much more likely its absence does, both as
logarithms, which is the log odds ratio of the 2 x 2 table of outcome and answer. A weight counts only where it is
beyond chance, so that few answers, or answers given at random, make no evidence.

Legend: A answers in the order of their time, O outcomes, R requests, N candidates, E candidates with evidence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from easq_rec.answers.questionnaire import ANSWERS

CLASSES = (ANSWERS.index("satisfied"), ANSWERS.index("dissatisfied"))
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class AnswerEvidence:
    """Counts over any number of first answers.

    Args:
        answer_A: answer codes.
        happened_AO: whether the candidate that the answer is about had the outcome.
        caution: standard errors that a weight must be away from zero to count.
    """

    def __init__(self, answer_A: npt.NDArray[np.integer], happened_AO: npt.NDArray[np.bool_], caution: float) -> None:
        self._caution = caution
        # Positions rather than running counts: memory grows with what happened, not with answers times outcomes.
        self._class = [np.flatnonzero(answer_A == code) for code in CLASSES]
        self._happened: list[list[Rows]] = [
            [np.flatnonzero(column_A & (answer_A == code)) for column_A in happened_AO.T] for code in CLASSES
        ]

    def weights(self, admitted: int) -> npt.NDArray[np.float32]:
        """Weights of evidence by the first `admitted` answers, (O,)."""
        answers_2 = np.array([np.searchsorted(positions, admitted) for positions in self._class], dtype=np.float64)
        happened_2O = np.array(
            [[np.searchsorted(positions, admitted) for positions in columns] for columns in self._happened],
            dtype=np.float64,
        )
        return convincing(happened_2O, answers_2[:, None] - happened_2O, self._caution).astype(np.float32)


def convincing(happened_2O: Floats, not_2O: Floats, caution: float) -> Floats:
    """Log odds ratios of 2 x 2 tables, zero where they are within some standard errors of it, (O,).

    They are not shrunk: L_evidence explains what happened by scores that are the further apart, the less an outcome is
    taken to tell. Half a count is added to every cell (Haldane 1956, Anscombe 1956), without which an empty one would
    have no logarithm; the standard error is Woolf's (1955).
    """
    odds_2O = np.log(happened_2O + 0.5) - np.log(not_2O + 0.5)
    error_O = np.sqrt((1 / (happened_2O + 0.5) + 1 / (not_2O + 0.5)).sum(axis=0))
    ratio_O: Floats = odds_2O[0] - odds_2O[1]
    return np.where(np.abs(ratio_O) > caution * error_O, ratio_O, 0.0)
