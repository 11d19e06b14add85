"""L_satis: the satisfaction tower orders pairs of answers, across requests.

Legend: A answers of this rank.
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import Satisfaction
from easq_rec.losses.term import AnswerTerm, LossInputs


class SatisfactionTerm(AnswerTerm):
    def __init__(self, config: Satisfaction) -> None:
        self.config = config

    def values(self, inputs: LossInputs) -> Tensor:
        assert inputs.output.answered is not None
        return inputs.output.answered.score_N
