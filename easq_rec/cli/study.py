"""`easq-rec study NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from easq_rec import doctor
from easq_rec.tools.studies.options import StudyOptions


@dataclass(frozen=True, kw_only=True)
class StudyCommand(StudyOptions):
    """Run an experiment of many training runs on generated worlds, and write its verdict.

    signal: do answers agree with behaviour (trains nothing)? frontier: what does each way of alignment buy, and for how
    much? ablation: what does each part contribute? lambda2: how much DPO does a ranker take? sparsity: how few answers
    suffice? stability: does the policy run away from its reference? experts, rank: do these sizes matter? trigger: whom
    should the questionnaire ask? ab: what becomes of simulated people who are served by an aligned ranker?"""

    def run(self) -> int:
        doctor.require_compatible()
        from easq_rec.tools.studies.command import run

        return run(self)
