"""Candidates whose outcomes are evidence for or against satisfaction.

Legend: O outcomes, R requests, N candidates, E candidates with evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from easq_rec.data.columns import Rows, offsets_of


@dataclass(frozen=True, kw_only=True)
class Told:
    """The candidates of some requests that evidence tells apart."""

    candidate_E: Rows
    """Which of the N candidates, request by request."""
    evidence_E: npt.NDArray[np.float32]
    """Sum of the weights of evidence of what happened."""
    offsets: Rows
    """Where each request's begin and the last one's end; requests without any are left out."""

    @staticmethod
    def nothing() -> Told:
        """No candidate of no request."""
        nothing = np.zeros(0, np.int64)
        return Told(candidate_E=nothing, evidence_E=np.zeros(0, np.float32), offsets=np.zeros(1, np.int64))

    @staticmethod
    def apart(
        outcome_NO: npt.NDArray[np.float32], weight_O: npt.NDArray[np.float32], offsets_R1: Rows, trigger: int | None
    ) -> Told:
        """Of every request the candidates that were triggered, unless all of these have the same evidence.

        Args:
            weight_O: weights of evidence.
            offsets_R1: where the candidates of each request begin.
            trigger: position of the outcome that a candidate must have; None: any will do.
        """
        if not weight_O.any():
            return Told.nothing()
        evidence_N = (outcome_NO > 0) @ weight_O
        candidate = np.arange(len(evidence_N)) if trigger is None else np.flatnonzero(outcome_NO[:, trigger] > 0)
        request_N = np.repeat(np.arange(len(offsets_R1) - 1), np.diff(offsets_R1))
        request, evidence = request_N[candidate], evidence_N[candidate]
        # Requests are in order, so that the first of one's own is found by bisection.
        differs = evidence != evidence[np.searchsorted(request, request)]
        told_R = np.bincount(request[differs], minlength=len(offsets_R1) - 1) > 0
        kept = told_R[request]
        count_R = np.bincount(request[kept], minlength=len(offsets_R1) - 1)
        return Told(candidate_E=candidate[kept], evidence_E=evidence[kept], offsets=offsets_of(count_R[count_R > 0]))
