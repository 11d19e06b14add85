"""The pairwise answer loss on the policy score itself: a baseline without a reference.

Legend: A answers of this rank.
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import Direct
from easq_rec.losses.term import AnswerTerm, LossInputs


class DirectTerm(AnswerTerm):
    def __init__(self, config: Direct) -> None:
        self.config = config

    def values(self, inputs: LossInputs) -> Tensor:
        return inputs.output.main.score_N[inputs.batch.answered_A]
