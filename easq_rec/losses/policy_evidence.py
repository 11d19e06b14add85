"""L_evidence on the policy score itself: a baseline without a reference.

Legend: S groups with evidence, E candidates with evidence (padded in S, E).
"""

from __future__ import annotations

from torch import Tensor

from easq_rec.config.losses import PolicyEvidence
from easq_rec.losses.evidence import evidence_likelihood
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm


class PolicyEvidenceTerm(RequestTerm):
    def __init__(self, config: PolicyEvidence) -> None:
        self.config = config

    def count(self, pairs: RequestPairs) -> Tensor:
        return (pairs.evidence_SEE > 0).sum()

    def total(self, inputs: LossInputs) -> Tensor:
        score_N = inputs.output.main.score_N
        evidence_score_E = score_N[inputs.batch.evidence_candidate_E]
        score_SE = inputs.pairs.evidence_lists.pad(evidence_score_E[:, None]).squeeze(-1)
        return evidence_likelihood(score_SE, inputs.pairs.evidence_SEE)
