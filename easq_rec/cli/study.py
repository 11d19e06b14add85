"""`easq-rec study NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from easq_rec import doctor
from easq_rec.tools.studies.options import StudyOptions


@dataclass(frozen=True, kw_only=True)
class StudyCommand(StudyOptions):
    """Run an experiment of many training runs on generated worlds, and write its verdict.

    signal: do answers agree with behaviour (trains nothing)? worth: do answers tell something that behaviour does not,
    and what are they worth (trains nothing)? frontier: what does each method of alignment gain at an equal price? map:
    in which worlds does a questionnaire pay? operating-point: what does alignment gain at the paper's rate of answers,
    on a million requests? robustness: what is lost if answers or likes are bad? ablation: what does each part
    contribute? lambda2: which weight of the DPO loss is best? sparsity: how many answers are needed? stability: does
    the policy diverge from its reference? experts, rank: do these sizes matter? trigger: when should the questionnaire
    ask? ab: how does an aligned ranker affect simulated users?"""

    def run(self) -> int:
        doctor.require_compatible()
        from easq_rec.tools.studies.command import run

        return run(self)
