"""`easq-rec train`, with a record of the requests of every step.

    follow_worker.py RECORDS [arguments of train]

Each process writes RECORDS/TIME-RANK.jsonl: the step at which it starts (rank 0), then the request ids of each step.
`benchmarks/chaos_follow.py` starts it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from easq_rec import train
from easq_rec.data.stream.held_answers import AdmittedAnswers
from easq_rec.training.follow.loop import Follower, FollowResult
from easq_rec.training.step import StepResult


def record(folder: Path) -> None:
    """Makes every follower of this process write a record."""
    follow, evaluate = Follower.follow, Follower._evaluate

    def write(follower: Follower, values: dict[str, object]) -> None:
        file = folder / f"{begun}-{follower.runtime.rank}.jsonl"
        with file.open("a") as out:
            out.write(json.dumps({"time": time.time(), **values}) + "\n")

    def recorded_follow(self: Follower) -> FollowResult:
        if self.runtime.leads:
            write(self, {"start": self.step})
        return follow(self)

    def recorded_evaluate(self: Follower, result: StepResult, admitted: AdmittedAnswers | None) -> None:
        ids = result.batch.keys.request_id_R[: result.batch.stream.requests]
        write(self, {"step": self.step, "ids": ids.tolist()})
        evaluate(self, result, admitted)

    begun = time.time_ns()
    Follower.follow, Follower._evaluate = recorded_follow, recorded_evaluate  # type: ignore[method-assign]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.exit(train.script(lambda: train.main(sys.argv[2:])))
