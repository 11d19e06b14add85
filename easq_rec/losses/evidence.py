"""L_evidence: outcomes as noisy views of answers that nobody gave.

Legend: G groups (requests, or users: `losses.groups`), C candidates (padded), S groups with evidence, E candidates with
evidence (padded in S, E).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from easq_rec.config.losses import Evidence
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


def evidence_likelihood(score_GC: Tensor, evidence_GCC: Tensor) -> Tensor:
    """Negative log-likelihood of the outcomes, summed over pairs of a group with e_i > e_j.

    Assume that of the two candidates one is satisfying and the other is not, and that i is the satisfying one with
    probability sigmoid(s_i - s_j), as in L_satis. Let e = e_i - e_j be the log-likelihood ratio of the outcomes of both
    candidates. Up to a factor without s, their likelihood is sigmoid(d) exp(e) + sigmoid(-d) for d = s_i - s_j. Its
    negative logarithm is softplus(d) - softplus(d + e), which lies between 0 and -e. The gradient, sigmoid(d) -
    sigmoid(d + e), is a step of expectation maximisation (Dempster, Laird and Rubin 1977): it is small where the scores
    already agree with the evidence, and zero where there is no evidence.

    Args:
        score_GC: satisfaction scores.
        evidence_GCC: e_i - e_j of the pairs, a constant; 0 for pairs that are not compared, which add nothing.
    """
    difference_GCC = score_GC[:, :, None] - score_GC[:, None, :]
    return (F.softplus(difference_GCC) - F.softplus(difference_GCC + evidence_GCC)).sum()


class EvidenceTerm(RequestTerm):
    def __init__(self, config: Evidence) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return (pairs.evidence_SEE > 0).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        scored = inputs.output.evidence
        assert scored is not None
        score_SE = inputs.pairs.evidence_lists.pad(scored.score_N[:, None]).squeeze(-1)
        return evidence_likelihood(score_SE, inputs.pairs.evidence_SEE)
