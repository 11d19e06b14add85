"""How fast are the metrics of held-out requests and their intervals computed (without the model)?

Requests of 12 candidates in an order that mixes the users, ten requests to a user; random scores, five grades of truth,
a third of the candidates with some utility, one answer per thousand candidates. The timed part is everything that
`easq-rec evaluate` does between scores and intervals: the table by request, the sums by user, and all resamples of all
metrics. Reports CPU seconds of all threads of the process, with system time, of the first and the fastest call. Prints
one JSON line.

    python -m benchmarks.metrics [--candidates 2000000] [--resamples 1000] [--repeats 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.report import hardware, publish
from easq_rec.config.answer_scale import THREE_ANSWERS
from easq_rec.evaluation.metrics.intervals import METRICS, differences, estimates
from easq_rec.evaluation.predict import AnswerPredictions, Predictions
from easq_rec.evaluation.results import Evaluated, Origin, evaluation_table

CANDIDATES = 12
REQUESTS_PER_USER = 10
ANSWER_RATE = 1e-3


def scored(candidates: int) -> tuple[Predictions, AnswerPredictions]:
    """Random scores and outcomes; the answered requests also separately, as in their files."""
    generator = torch.Generator().manual_seed(0)
    requests = candidates // CANDIDATES
    score_RC, chance_RC, asked_RC = torch.rand(3, requests, CANDIDATES, generator=generator)
    truth_RC = torch.randint(0, 5, (requests, CANDIDATES), generator=generator).float()
    utility_RC = (chance_RC < 0.3).float() + 0.5 * (chance_RC > 0.95)
    user_R = torch.randint(0, max(requests // REQUESTS_PER_USER, 1), (requests,), generator=generator)
    answer_RC = torch.where(asked_RC < ANSWER_RATE, (truth_RC > 2).long() * THREE_ANSWERS.last, -1)
    answered_R = (answer_RC >= 0).any(1).nonzero().squeeze(1)
    predictions = Predictions(
        main_N=score_RC.flatten(),
        served_N=score_RC.flatten(),
        truth_N=truth_RC.flatten(),
        utility_N=utility_RC.flatten(),
        lengths_R=torch.full((requests,), CANDIDATES),
        user_R=user_R,
        request_id_R=torch.arange(requests),
    )
    answers = AnswerPredictions(
        served_N=score_RC[answered_R].flatten(),
        answer_N=answer_RC[answered_R].flatten(),
        lengths_R=torch.full((len(answered_R),), CANDIDATES),
        user_R=user_R[answered_R],
        request_id_R=answered_R,
    )
    return predictions, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2_000_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictions, answers = scored(args.candidates)
    origin = Origin(recipe="random scores", step=0, fuse=None)
    phases = []
    for _ in range(args.repeats):
        times = [time.process_time()]
        evaluated = Evaluated(origin=origin, table=evaluation_table(predictions, answers))
        times.append(time.process_time())
        sums = evaluated.sums()
        found = estimates(sums, resamples=args.resamples)
        times.append(time.process_time())
        differences(sums, sums, resamples=args.resamples)
        times.append(time.process_time())
        phases.append([after - before for before, after in pairwise(times)])
    assert not any(found[name].value != found[name].value for name in METRICS), "every metric is defined"
    items = len(predictions.main_N)
    first, best = phases[0], min(phases, key=lambda phase: phase[0] + phase[1])
    result = {
        "benchmark": "metrics",
        "candidates": items,
        **{name: count for name, count in evaluated.counts().items() if name != "candidates"},
        "metrics": len(METRICS),
        "resamples": args.resamples,
        "candidates_per_cpu_second": round(items / (best[0] + best[1])),
        "candidates_per_cpu_second_first_call": round(items / (first[0] + first[1])),
        "table_cpu_s": round(best[0], 3),
        "intervals_cpu_s": round(best[1], 3),
        "paired_differences_cpu_s": round(best[2], 3),
    }
    publish({**result, **hardware()}, args.out)


if __name__ == "__main__":
    main()
