"""Runs one job in a separate process, so that its memory and CPU time can be measured.

    python -m benchmarks.rankers.worker JOB.json

The job is a file that `benchmarks.rankers` writes. The result goes to files beside it: JOB.result.json, and
JOB.scores.npy with the scores of the held-out impressions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.rankers.boosting import LightGBM
from benchmarks.rankers.counts import NaiveBayes, Popularity, Scorer, Settings
from benchmarks.rankers.impressions import Floats, Impressions, read
from easq_rec.errors import UserError, exit_code

PEERS = ("popularity", "naive_bayes", "lightgbm", "fm", "deepfm", "din", "mmoe", "dcn")
RANDOM_PEERS = ("lightgbm", "fm", "deepfm", "din", "mmoe", "dcn")
"""Peers that depend on the seed."""


class Ranker(Protocol):
    """A peer."""

    probability: bool
    """Whether its scores are probabilities of the label."""

    def tries(self, train: Impressions, valid: Impressions) -> Iterator[tuple[Settings, Floats]]:
        """Every setting that is tried, with the scores of `valid` after training on `train`."""
        ...

    def fit(self, train: Impressions, settings: Settings, seed: int) -> Scorer:
        """Trains, and returns what scores other impressions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """Work for one process."""

    ranker: str
    """A peer, or a recipe."""
    kind: str
    """`tune`, `fit` (a peer) or `recipe`."""
    train: str
    """Parquet file of the training requests; for a recipe, the folder with requests/ and answers/."""
    held: str
    """Parquet file of the requests to score."""
    seed: int = 0
    settings: Settings | None = None
    """Of a peer, for `fit`."""
    holdout: float = 0.2
    """Held-out share of the time line, for a recipe."""


def peer(name: str) -> Ranker:
    """The peer of that name."""
    match name:
        case "popularity":
            return Popularity()
        case "naive_bayes":
            return NaiveBayes()
        case "lightgbm":
            return LightGBM()
        case "fm" | "deepfm" | "din" | "mmoe":
            # torch is imported only by those that need it.
            from benchmarks.rankers.torch_models import LibraryModel

            return LibraryModel(name)
        case "dcn":
            from benchmarks.rankers.deepctr_models import CrossNetwork

            return CrossNetwork()
    raise UserError(f"ranker {name!r}: expected one of {', '.join(PEERS)}")


def tune(job: Job) -> dict[str, Any]:
    """Tries every setting on the last part of the training period; the best has the highest mean of AUC and GAUC."""
    from benchmarks.rankers.quality import Truth, mean_over_seeds

    train, valid = read(Path(job.train)), read(Path(job.held))
    truth = Truth(label_N=valid.labels, user_N=valid.user_R[valid.request_N], request_N=valid.request_N)
    tried: list[dict[str, Any]] = []
    for settings, score_N in peer(job.ranker).tries(train, valid):
        found, _ = mean_over_seeds([score_N], truth, probability=False, resamples=0, seed=0)
        tried.append({"settings": settings, **{name: round(found[name], 4) for name in ("auc", "gauc")}})
        print(f"{job.ranker}: {tried[-1]}", flush=True)
    best = max(tried, key=lambda one: float(one["auc"] + one["gauc"]))
    return {"settings": best["settings"], "tried": tried}


def fit(job: Job) -> tuple[dict[str, Any], Floats]:
    """Trains a peer with its settings and scores the held-out impressions."""
    assert job.settings is not None
    ranker = peer(job.ranker)
    begin = time.process_time()
    train = read(Path(job.train))
    scorer = ranker.fit(train, job.settings, job.seed)
    seconds = time.process_time() - begin
    return {"cpu_seconds": seconds, "probability": ranker.probability}, scorer(read(Path(job.held)))


def recipe(job: Job, place: Path) -> tuple[dict[str, Any], Floats]:
    """Trains a recipe of the project and scores the held-out impressions."""
    from benchmarks.rankers import ours

    run_dir, held = place.with_suffix(".run"), Path(job.held)
    seconds = ours.train_recipe(job.ranker, Path(job.train), run_dir, seed=job.seed, holdout=job.holdout)
    score_N = ours.scores(run_dir, held.parent, read(held), place.with_suffix(".parquet"))
    # A policy score orders candidates; no recipe promises that it is a probability.
    return {"cpu_seconds": seconds, "probability": False}, score_N


def peak_rss_mib() -> float:
    """Peak memory of this process. `getrusage` would count the memory of the parent before the start, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, metavar="JOB.json")
    path: Path = parser.parse_args(argv).job
    job = Job(**json.loads(path.read_text()))
    score_N = None
    match job.kind:
        case "tune":
            begin = time.process_time()
            result = tune(job)
            result["cpu_seconds"] = time.process_time() - begin
        case "fit":
            result, score_N = fit(job)
        case _:
            result, score_N = recipe(job, path)
    if score_N is not None:
        np.save(path.with_suffix(".scores.npy"), score_N)
    result["peak_rss_mib"] = peak_rss_mib()
    path.with_suffix(".result.json").write_text(json.dumps(result | {"job": asdict(job)}))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
