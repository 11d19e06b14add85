"""Sources of information about an answer, as numbers that a logistic regression reads.

Shape suffixes: A answered impressions, F numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from easq_rec.data.counts import Floats
from easq_rec.tools.studies.worth.answered import Answered
from easq_rec.tools.studies.worth.past import Past, group_of, strength
from easq_rec.tools.studies.worth.questions import Question, Source


class AnswerSources:
    """The numbers of every source.

    Args:
        behaviour: means of earlier impressions by (key, outcome).
        answers: means of earlier answers by key.
        fit_A: the rows from which strengths of priors are estimated.
    """

    def __init__(
        self,
        answered: Answered,
        behaviour: Mapping[tuple[str, str], Past],
        answers: Mapping[str, Past],
        fit_A: NDArray[np.bool_],
    ) -> None:
        groups = {key: group_of(ids) for key, ids in answered.ids.items()}
        self._context = list(answered.context.values())
        self._before = [past.effect(strength(past, groups[key], fit_A)) for (key, _), past in behaviour.items()]
        shown = {key: past for (key, _), past in behaviour.items()}
        self._before += [past.popularity for past in shown.values()]
        self._after = [
            column if column.max(initial=0) <= 1 else np.log1p(column) for column in answered.behaviour.values()
        ]
        self._answers = [past.effect(strength(past, groups[key], fit_A)) for key, past in answers.items()]
        self._rows = len(answered)

    def numbers(self, source: Source, question: Question) -> Floats:
        """(A, F). The context of an impression, such as its duration, belongs to every source but the constant."""
        columns: list[Floats] = []
        if source != "constant":
            columns += self._context
        if source in ("behaviour alone", "both"):
            columns += self._before
            columns += self._after if question == "after the view" else []
        if source in ("answers alone", "both"):
            columns += self._answers
        return np.stack(columns, axis=1) if columns else np.zeros((self._rows, 0))
