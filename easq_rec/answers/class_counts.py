"""How many of the first answers are satisfied, and how many dissatisfied.

Legend: A answers in time order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from easq_rec.config.answer_scale import AnswerScale


class ClassCounts:
    """Counts the answers of each class among the first ones, for any number of them.

    Args:
        answer_A: answer codes.
        scale: defines satisfied and dissatisfied answers.
    """

    def __init__(self, answer_A: npt.NDArray[np.integer], scale: AnswerScale) -> None:
        self.of_class_2A = np.stack(
            [np.isin(answer_A, codes) for codes in (scale.satisfied_codes, scale.dissatisfied_codes)]
        )
        """Whether each answer is satisfied, and whether it is dissatisfied."""
        self._positions = [np.flatnonzero(of_class_A) for of_class_A in self.of_class_2A]

    def among(self, admitted: int) -> tuple[int, int]:
        """(satisfied, dissatisfied) answers among the first `admitted` ones."""
        satisfied, dissatisfied = (int(np.searchsorted(positions, admitted)) for positions in self._positions)
        return satisfied, dissatisfied
