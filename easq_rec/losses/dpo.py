"""L_DPO: direct preference optimisation against the online reference (arXiv 2305.18290, arXiv 2601.20215).

Legend: G slates (requests, or users: `losses.groups`), C candidates (padded), A answers of this rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.losses import DPO
from easq_rec.errors import UserError
from easq_rec.losses.groups import ComparisonGroups
from easq_rec.losses.term import AnswerTerm, LossInputs


def log_policy(score_GC: Tensor, mask_GC: Tensor, form: str) -> Tensor:
    """log pi of each candidate, (R, C), up to terms that cancel in a pair.

    score_difference: the score itself (the paper's literal form). slate_softmax: log-softmax over the
    candidates of the slate, which does not depend on an offset of the slate. bernoulli: log sigmoid.
    """
    match form:
        case "score_difference":
            return score_GC
        case "slate_softmax":
            # The filler is finite: a row of -inf, in a slate without candidates, would have NaN gradients.
            return score_GC.masked_fill(~mask_GC, torch.finfo(score_GC.dtype).min).log_softmax(-1)
        case "bernoulli":
            return F.logsigmoid(score_GC)
    raise UserError(f"losses.dpo.policy={form!r} is not allowed: score_difference, slate_softmax or bernoulli")


class DPOTerm(AnswerTerm):
    def __init__(self, config: DPO) -> None:
        self.config = config

    def values(self, inputs: LossInputs) -> Tensor:
        """beta (log pi - log pi_ref) of the answered candidates, (A,)."""
        batch, output, form = inputs.batch, inputs.output, self.config.policy
        assert output.reference is not None
        slates = ComparisonGroups.of_slates(batch, requests=output.candidates.count, candidates=output.candidates.total)
        policy_GC, reference_GC = slates.pad(output.main.score_N), slates.pad(output.reference.score_N.detach())
        mask_GC = slates.mask()
        log_ratio_GC = log_policy(policy_GC, mask_GC, form) - log_policy(reference_GC, mask_GC, form)
        return self.config.beta * log_ratio_GC[slates.places(batch.answered_A, batch.total.candidates)]
