"""L_DPO: direct preference optimisation against the online reference (arXiv 2305.18290, arXiv 2601.20215).

Legend: R requests, C candidates (padded), A answers of this rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.losses import DPO
from easq_rec.errors import UserError
from easq_rec.losses.term import AnswerTerm, LossInputs


def log_policy(score_RC: Tensor, mask_RC: Tensor, form: str) -> Tensor:
    """log pi of each candidate, (R, C), up to terms that cancel in a pair.

    score_difference: the score itself (the paper's literal form). slate_softmax: log-softmax over the request's
    candidates, which does not depend on an offset of the request. bernoulli: log sigmoid.
    """
    match form:
        case "score_difference":
            return score_RC
        case "slate_softmax":
            # The filler is finite: a row of -inf, in a request without candidates, would have NaN gradients.
            return score_RC.masked_fill(~mask_RC, torch.finfo(score_RC.dtype).min).log_softmax(-1)
        case "bernoulli":
            return F.logsigmoid(score_RC)
    raise UserError(f"losses.dpo.policy={form!r} is not allowed: score_difference, slate_softmax or bernoulli")


class DPOTerm(AnswerTerm):
    def __init__(self, config: DPO) -> None:
        self.config = config

    def values(self, inputs: LossInputs) -> Tensor:
        """beta (log pi - log pi_ref) of the answered candidates, (A,)."""
        mask_RC, form = inputs.mask_RC, self.config.policy
        log_ratio_RC = log_policy(inputs.policy_RC, mask_RC, form) - log_policy(
            inputs.reference_RC.detach(), mask_RC, form
        )
        answered_A, offsets_R1 = inputs.batch.answered_A, inputs.batch.candidate_offsets_R1
        request_A = torch.bucketize(answered_A, offsets_R1[1:], right=True)
        return self.config.beta * log_ratio_RC[request_A, answered_A - offsets_R1[request_A]]
