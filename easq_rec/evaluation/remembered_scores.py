"""How well the score that ranked a candidate, before anything was learned from its request, tells a later answer.

An answer comes minutes or days after its impression, and the model has changed by then. So the served scores of
candidates that may be asked about are remembered, and an answer that is admitted finds the one of its impression.

Legend: N candidates, A answers.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from easq_rec.data.columns import Rows
from easq_rec.data.mixing import mixed
from easq_rec.data.stream.held_answers import AdmittedAnswers

MOST = 500_000
"""Candidates that are remembered on a rank; about 60 MB."""


class RememberedScores:
    """Scores by request and item. What was remembered first is forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._scores: dict[int, float] = {}
        self._order: deque[list[int]] = deque()

    def add(self, request_id_N: Rows, item_N: Rows, score_N: npt.NDArray[np.float32]) -> None:
        """Remembers the scores of some candidates. An item that a request has twice counts as its last one."""
        keys = mixed(request_id_N, item_N).tolist()
        self._scores.update(zip(keys, score_N.tolist(), strict=True))
        self._order.append(keys)
        while len(self._scores) > self._most:
            for key in self._order.popleft():
                self._scores.pop(key, None)

    def find(self, answers: AdmittedAnswers) -> npt.NDArray[np.float64]:
        """The score of each answer's candidate; NaN: it is not remembered here."""
        keys = mixed(answers.request_id_A, answers.item_A).tolist()
        return np.array([self._scores.get(key, np.nan) for key in keys], np.float64)
