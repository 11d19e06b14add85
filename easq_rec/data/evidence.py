"""Candidates whose outcomes are evidence for or against satisfaction.

Legend: O outcomes, R requests, or other groups of candidates that are compared, N candidates, E candidates with
evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.data.columns import Rows, offsets_of


@dataclass(frozen=True, kw_only=True)
class EvidenceCandidates:
    """Candidates with evidence, of groups whose candidates differ in evidence."""

    candidate_E: Rows
    """Positions among the N candidates, group by group."""
    evidence_E: npt.NDArray[np.float32]
    """Sum of the weights of evidence of the candidate's outcomes."""
    offsets: Rows
    """Offsets of the groups that have candidates with evidence."""

    @staticmethod
    def none() -> EvidenceCandidates:
        """No candidates."""
        empty = np.zeros(0, np.int64)
        return EvidenceCandidates(candidate_E=empty, evidence_E=np.zeros(0, np.float32), offsets=np.zeros(1, np.int64))

    @staticmethod
    def find(
        outcome_NO: npt.NDArray[np.float32], weight_O: npt.NDArray[np.float32], offsets_R1: Rows, trigger: int | None
    ) -> EvidenceCandidates:
        """The triggered candidates of every group, except of groups where all of them have the same evidence.

        Args:
            weight_O: weights of evidence.
            offsets_R1: offsets of the groups' candidates.
            trigger: position of the outcome that a candidate must have; None: all candidates are triggered.
        """
        if not weight_O.any():
            return EvidenceCandidates.none()
        evidence_N = (outcome_NO > 0) @ weight_O
        candidate = np.arange(len(evidence_N)) if trigger is None else np.flatnonzero(outcome_NO[:, trigger] > 0)
        group_N = np.repeat(np.arange(len(offsets_R1) - 1), np.diff(offsets_R1))
        group, evidence = group_N[candidate], evidence_N[candidate]
        # Groups are sorted, so a binary search finds the first candidate of each.
        differs = evidence != evidence[np.searchsorted(group, group)]
        informative_R = np.bincount(group[differs], minlength=len(offsets_R1) - 1) > 0
        kept = informative_R[group]
        count_R = np.bincount(group[kept], minlength=len(offsets_R1) - 1)
        return EvidenceCandidates(
            candidate_E=candidate[kept], evidence_E=evidence[kept], offsets=offsets_of(count_R[count_R > 0])
        )
